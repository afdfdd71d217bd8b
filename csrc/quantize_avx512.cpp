// Weights to 4-bit codes with AVX512 (F, BW, VL, DQ, VBMI): 16 weights a register, thresholds looked up in registers.
#include <immintrin.h>

#include "block_scale.h"
#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

// The largest of `count` 16-bit numbers without their signs, which order as their magnitudes do.
uint16_t largest_half(const uint16_t *w, int64_t count) {
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 32)
    largest = _mm512_max_epu16(largest, _mm512_and_si512(_mm512_loadu_si512(w + i), _mm512_set1_epi16(0x7fff)));
  const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(largest), _mm512_extracti64x4_epi64(largest, 1));
  const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i inverted = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
  return static_cast<uint16_t>(~_mm_cvtsi128_si32(inverted));
}

struct WideFloat32 {
  using Stored = float;
  static __m512 load(const float *p) { return _mm512_loadu_ps(p); }
  static uint32_t magnitude(const float *w, int64_t count) {
    __m512i largest = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16)
      largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_loadu_si512(w + i), _mm512_set1_epi32(0x7fffffff)));
    return _mm512_reduce_max_epu32(largest);
  }
};

struct WideBFloat16 {
  using Stored = uint16_t;
  static __m512 load(const uint16_t *p) {
    const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(stored), 16));
  }
  static uint32_t magnitude(const uint16_t *w, int64_t count) { return uint32_t{largest_half(w, count)} << 16; }
};

struct WideFloat16 {
  using Stored = uint16_t;
  static __m512 load(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  }
  static uint32_t magnitude(const uint16_t *w, int64_t count) { return bits_of(_cvtsh_ss(largest_half(w, count))); }
};

// Binary search of the position, highest bit first. The third and fourth threshold stand at the index found so far.
class Search {
 public:
  explicit Search(const QuantizeJob &job)
      : middle_(_mm512_set1_ps(job.thresholds[7])),
        lower_(_mm512_set1_ps(job.thresholds[3])),
        upper_(_mm512_set1_ps(job.thresholds[11])),
        third_(_mm512_maskz_loadu_ps(0x7fff, job.thresholds + 1)),
        fourth_(_mm512_loadu_ps(job.thresholds)) {}

  __m512i position(__m512 x) const {
    const __mmask16 high = _mm512_cmp_ps_mask(x, middle_, _CMP_GT_OQ);
    __m512i found = _mm512_maskz_mov_epi32(high, _mm512_set1_epi32(8));
    found = step(found, x, _mm512_mask_blend_ps(high, lower_, upper_), 4);
    found = step(found, x, _mm512_permutexvar_ps(found, third_), 2);
    return step(found, x, _mm512_permutexvar_ps(found, fourth_), 1);
  }

 private:
  static __m512i step(__m512i found, __m512 x, __m512 threshold, int bit) {
    return _mm512_mask_or_epi32(found, _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ), found, _mm512_set1_epi32(bit));
  }

  __m512 middle_, lower_, upper_, third_, fourth_;
};

// Four registers of 16 positions -> 64 codes in 32 bytes.
class Packer {
 public:
  explicit Packer(const QuantizeJob &job)
      : order_(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(job.order)))) {
    alignas(64) uint8_t source[64];  // the bytes come as w0 w16 w32 w48 w1 w17 ...
    for (int i = 0; i < 64; ++i) source[i] = static_cast<uint8_t>(4 * (i % 16) + i / 16);
    in_order_ = _mm512_load_si512(source);
  }

  __m256i pack(__m512i a, __m512i b, __m512i c, __m512i d) const {
    const __m512i low = _mm512_or_si512(a, _mm512_slli_epi32(b, 8));
    const __m512i high = _mm512_or_si512(_mm512_slli_epi32(c, 16), _mm512_slli_epi32(d, 24));
    const __m512i positions = _mm512_permutexvar_epi8(in_order_, _mm512_or_si512(low, high));
    const __m512i codes = _mm512_shuffle_epi8(order_, positions);
    return _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0110)));  // 16 * first + second
  }

 private:
  __m512i order_, in_order_;
};

// NaN is lost in a minimum, but not in a sum of zeros: 0 * x is 0 for every finite x.
template <class Format>
Extremes extremes(const typename Format::Stored *w, int64_t count) {
  __m512 low = Format::load(w), high = low, poison = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 x = Format::load(w + i);
    low = _mm512_min_ps(low, x), high = _mm512_max_ps(high, x);
    poison = _mm512_fmadd_ps(x, _mm512_setzero_ps(), poison);
  }
  const bool finite = !_mm512_cmp_ps_mask(poison, poison, _CMP_UNORD_Q);
  return {finite ? 0 : kInfinityBits, _mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high)};
}

// While a weight is encoded the one `ahead` of it is fetched: computing hides the memory, and no page end stops it.
template <class Format, class Normalize>
void encode(const Search &search, const Packer &packer, const typename Format::Stored *w, int64_t count, int64_t ahead,
            uint8_t *codes, const Normalize &normalize) {
  const auto position = [&](int64_t i) {
    _mm_prefetch(reinterpret_cast<const char *>(w + i + ahead), _MM_HINT_T0);
    return search.position(normalize(Format::load(w + i)));
  };
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const __m256i packed = packer.pack(position(i), position(i + 16), position(i + 32), position(i + 48));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(codes + i / 2), packed);
  }
  if (i < count) {
    const __m256i packed = packer.pack(position(i), position(i + 16), _mm512_setzero_si512(), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + i / 2), _mm256_castsi256_si128(packed));
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
        : inverse_(_mm512_set1_ps(inverse)),
          lowest_(_mm512_set1_ps(-job.full_scale)),
          highest_(_mm512_set1_ps(job.full_scale)) {}
    __m512 operator()(__m512 x) const {
      return _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(x, inverse_), lowest_), highest_);
    }

   private:
    __m512 inverse_, lowest_, highest_;
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
        : low_(_mm512_set1_ps(affine.low)),
          scale_(_mm512_set1_ps(affine.scale)),
          spread_(affine.scale != 0.0f ? 0xffff : 0) {}
    __m512 operator()(__m512 x) const { return _mm512_maskz_div_ps(spread_, _mm512_sub_ps(x, low_), scale_); }

   private:
    __m512 low_, scale_;
    __mmask16 spread_;
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

int64_t quantize_avx512(const QuantizeJob &job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case QUATRO_BF16: return quantize<WideBFloat16>(job, first, last);
    case QUATRO_F16: return quantize<WideFloat16>(job, first, last);
    default: return quantize<WideFloat32>(job, first, last);
  }
}

}  // namespace quatro
