// Weights to 4-bit codes with AVX2: 8 weights a register, thresholds looked up in registers.
#include <immintrin.h>

#include "block_scale.h"
#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

// The largest of `count` 16-bit numbers without their signs, which order as their magnitudes do.
uint16_t largest_half(const uint16_t *w, int64_t count) {
  __m256i largest = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 16) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w + i));
    largest = _mm256_max_epu16(largest, _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff)));
  }
  const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  const __m128i inverted = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
  return static_cast<uint16_t>(~_mm_cvtsi128_si32(inverted));
}

struct WideFloat32 {
  using Stored = float;
  static __m256 load(const float *p) { return _mm256_loadu_ps(p); }
  static uint32_t magnitude(const float *w, int64_t count) {
    __m256i largest = _mm256_setzero_si256();
    for (int64_t i = 0; i < count; i += 8) {
      const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(w + i));
      largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
    }
    __m128i half = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1))));
  }
};

struct WideBFloat16 {
  using Stored = uint16_t;
  static __m256 load(const uint16_t *p) {
    const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(stored), 16));
  }
  static uint32_t magnitude(const uint16_t *w, int64_t count) { return uint32_t{largest_half(w, count)} << 16; }
};

struct WideFloat16 {
  using Stored = uint16_t;
  static __m256 load(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  }
  static uint32_t magnitude(const uint16_t *w, int64_t count) { return bits_of(_cvtsh_ss(largest_half(w, count))); }
};

// Binary search of the position, highest bit first. A comparison gives 0 or -1: found = 2 * found - comparison.
class Search {
 public:
  explicit Search(const QuantizeJob &job)
      : middle_(_mm256_set1_ps(job.thresholds[7])),
        lower_(_mm256_set1_ps(job.thresholds[3])),
        upper_(_mm256_set1_ps(job.thresholds[11])) {
    const float *t = job.thresholds;
    third_ = _mm256_setr_ps(t[1], t[5], t[9], t[13], t[1], t[5], t[9], t[13]);
    fourth_ = _mm256_setr_ps(t[0], t[2], t[4], t[6], t[8], t[10], t[12], t[14]);
  }

  __m256i position(__m256 x) const {
    const __m256 high = _mm256_cmp_ps(x, middle_, _CMP_GT_OQ);
    __m256i found = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(high));
    found = step(found, x, _mm256_blendv_ps(lower_, upper_, high));
    found = step(found, x, _mm256_permutevar8x32_ps(third_, found));
    return step(found, x, _mm256_permutevar8x32_ps(fourth_, found));
  }

 private:
  static __m256i step(__m256i found, __m256 x, __m256 threshold) {
    const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GT_OQ));
    return _mm256_sub_epi32(_mm256_add_epi32(found, found), above);
  }

  __m256 middle_, lower_, upper_, third_, fourth_;
};

// Four registers of 8 positions -> 32 codes in 16 bytes.
class Packer {
 public:
  explicit Packer(const QuantizeJob &job)
      : order_(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(job.order)))) {}

  __m128i pack(__m256i a, __m256i b, __m256i c, __m256i d) const {
    const __m256i positions = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    const __m256i codes = _mm256_shuffle_epi8(order_, positions);
    const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0110));  // 16 * first + second
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    return _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  }

 private:
  __m256i order_;
};

float smallest(__m256 x) {
  __m128 half = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_min_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_min_ss(half, _mm_movehdup_ps(half)));
}

// NaN is lost in a minimum, but not in a sum of zeros: 0 * x is 0 for every finite x.
template <class Format>
Extremes extremes(const typename Format::Stored *w, int64_t count) {
  __m256 low = Format::load(w), high = low, poison = _mm256_setzero_ps();
  for (int64_t i = 0; i < count; i += 8) {
    const __m256 x = Format::load(w + i);
    low = _mm256_min_ps(low, x), high = _mm256_max_ps(high, x);
    poison = _mm256_fmadd_ps(x, _mm256_setzero_ps(), poison);
  }
  const bool finite = !_mm256_movemask_ps(_mm256_cmp_ps(poison, poison, _CMP_UNORD_Q));
  return {finite ? 0 : kInfinityBits, smallest(low), -smallest(_mm256_xor_ps(high, _mm256_set1_ps(-0.0f)))};
}

// While a weight is encoded the one `ahead` of it is fetched: computing hides the memory, and no page end stops it.
template <class Format, class Normalize>
void encode(const Search &search, const Packer &packer, const typename Format::Stored *w, int64_t count, int64_t ahead,
            uint8_t *codes, const Normalize &normalize) {
  const auto position = [&](int64_t i) {
    _mm_prefetch(reinterpret_cast<const char *>(w + i + ahead), _MM_HINT_T0);
    return search.position(normalize(Format::load(w + i)));
  };
  for (int64_t i = 0; i < count; i += kUnit) {
    const __m128i packed = packer.pack(position(i), position(i + 8), position(i + 16), position(i + 24));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + i / 2), packed);
  }
}

// value = scale * table
struct SymmetricRule {
  using Found = uint32_t;
  using Scale = float;

  template <class Format>
  static Found measure(const typename Format::Stored *w, int64_t count) {
    return Format::magnitude(w, count);
  }

  class Normalize {
   public:
    Normalize(const QuantizeJob &job, float inverse)
        : inverse_(_mm256_set1_ps(inverse)),
          lowest_(_mm256_set1_ps(-job.full_scale)),
          highest_(_mm256_set1_ps(job.full_scale)) {}
    __m256 operator()(__m256 x) const {
      return _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(x, inverse_), lowest_), highest_);
    }

   private:
    __m256 inverse_, lowest_, highest_;
  };
};

// value = scale * (table - zero)
struct AffineRule {
  using Found = Extremes;
  using Scale = Affine;

  template <class Format>
  static Found measure(const typename Format::Stored *w, int64_t count) {
    return extremes<Format>(w, count);
  }

  class Normalize {
   public:
    explicit Normalize(const QuantizeJob &, Affine affine)
        : low_(_mm256_set1_ps(affine.low)),
          scale_(_mm256_set1_ps(affine.scale)),
          spread_(_mm256_castsi256_ps(_mm256_set1_epi32(affine.scale != 0.0f ? -1 : 0))) {}
    __m256 operator()(__m256 x) const { return _mm256_and_ps(spread_, _mm256_div_ps(_mm256_sub_ps(x, low_), scale_)); }

   private:
    __m256 low_, scale_, spread_;
  };
};

template <class Format, class Rule>
int64_t quantize(const QuantizeJob &job, int64_t first, int64_t last) {
  const Search search(job);
  const Packer packer(job);
  const auto *weights = static_cast<const typename Format::Stored *>(job.weights);
  const int64_t batch = batch_of(job.block);
  typename Rule::Found found[kMostBatched];
  typename Rule::Scale scales[kMostBatched];
  for (int64_t start = first; start < last; start += batch) {
    const int64_t blocks = batch < last - start ? batch : last - start;
    const auto *w = weights + start * job.block;
    for (int64_t b = 0; b < blocks; ++b) found[b] = Rule::template measure<Format>(w + b * job.block, job.block);
    const int64_t good = write_scales(job, start, found, blocks, scales);
    if (good < blocks) return start + good;
    for (int64_t b = 0; b < blocks; ++b)
      encode<Format>(search, packer, w + b * job.block, job.block, batch * job.block,
                     job.codes + (start + b) * job.block / 2, typename Rule::Normalize(job, scales[b]));
  }
  return -1;
}

template <class Format>
int64_t quantize(const QuantizeJob &job, int64_t first, int64_t last) {
  return job.zeros ? quantize<Format, AffineRule>(job, first, last) : quantize<Format, SymmetricRule>(job, first, last);
}

}  // namespace

int64_t quantize_avx2(const QuantizeJob &job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case QUATRO_BF16: return quantize<WideBFloat16>(job, first, last);
    case QUATRO_F16: return quantize<WideFloat16>(job, first, last);
    default: return quantize<WideFloat32>(job, first, last);
  }
}

}  // namespace quatro
