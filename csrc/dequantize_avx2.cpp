// 4-bit codes back to weights with AVX2. The table is scaled and rounded once a block; then a weight is a lookup.
#include <immintrin.h>

#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

template <bool stream>
void store(void *out, __m256i values) {
  if (stream)
    _mm256_stream_si256(static_cast<__m256i *>(out), values);
  else
    _mm256_storeu_si256(static_cast<__m256i *>(out), values);
}

// 16 floats in two registers. A lookup reads the low 3 bits of each of 8 indices, and a blend the sign bit: one shift
// brings a nibble down, another its highest bit up.
class Floats {
 public:
  static constexpr int64_t kBytes = 4;

  Floats(__m256 low, __m256 high) : low_(low), high_(high) {}

  template <bool stream>
  void write(const uint8_t *codes, char *out) const {  // 32 weights
    for (int i = 0; i < 4; ++i) store<stream>(out + 32 * i, lookup(codes + 4 * i));
  }

 private:
  __m256i lookup(const uint8_t *codes) const {
    int32_t four;
    __builtin_memcpy(&four, codes, sizeof four);
    const __m256i all = _mm256_set1_epi32(four);
    const __m256i down = _mm256_srlv_epi32(all, _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24));
    const __m256i up = _mm256_sllv_epi32(all, _mm256_setr_epi32(24, 28, 16, 20, 8, 12, 0, 4));
    const __m256 low = _mm256_permutevar8x32_ps(low_, down), high = _mm256_permutevar8x32_ps(high_, down);
    return _mm256_castps_si256(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(up)));
  }

  __m256 low_, high_;
};

// 16 half-width values as a table of low bytes and one of high bytes.
class Halves {
 public:
  static constexpr int64_t kBytes = 2;

  explicit Halves(__m256i values) {
    const __m128i evens_then_odds = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m128i first = _mm_shuffle_epi8(_mm256_castsi256_si128(values), evens_then_odds);
    const __m128i second = _mm_shuffle_epi8(_mm256_extracti128_si256(values, 1), evens_then_odds);
    low_ = _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(first, second));
    high_ = _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(first, second));
  }

  template <bool stream>
  void write(const uint8_t *codes, char *out) const {  // 32 weights
    // 8 bytes a half, so that interleaving halves later gives weights in order.
    const __m128i packed = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(codes)), 0xd8);
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_castsi128_si256(packed), 0x50);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i first = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble),
                  second = _mm256_and_si256(bytes, nibble);
    const __m256i index = _mm256_unpacklo_epi8(first, second);
    const __m256i low = _mm256_shuffle_epi8(low_, index), high = _mm256_shuffle_epi8(high_, index);
    store<stream>(out, _mm256_unpacklo_epi8(low, high));
    store<stream>(out + 32, _mm256_unpackhi_epi8(low, high));
  }

 private:
  __m256i low_, high_;
};

__m256i halves(__m256i low, __m256i high) {  // the low 16 bits of 16 words of 32
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
}

struct WideFloat32 {
  using Table = Floats;
  static Table round(__m256 low, __m256 high) { return Table(low, high); }
};

struct WideBFloat16 {
  using Table = Halves;
  static Table round(__m256 low, __m256 high) { return Table(halves(rounded(low), rounded(high))); }

 private:
  static __m256i rounded(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc0), nan);
  }
};

struct WideFloat16 {
  using Table = Halves;
  static Table round(__m256 low, __m256 high) {
    return Table(_mm256_set_m128i(_mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT),
                                  _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)));
  }
};

template <class Format, bool stream>
void dequantize(const DequantizeJob &job, int64_t first, int64_t last) {
  using Table = typename Format::Table;
  const __m256 low = _mm256_loadu_ps(job.table), high = _mm256_loadu_ps(job.table + 8);
  for (int64_t b = first; b < last; ++b) {
    const __m256 zero = _mm256_set1_ps(job.zeros ? job.zeros[b] : 0.0f), scale = _mm256_set1_ps(job.scales[b]);
    const Table values =
        Format::round(_mm256_mul_ps(_mm256_sub_ps(low, zero), scale), _mm256_mul_ps(_mm256_sub_ps(high, zero), scale));
    const uint8_t *codes = job.codes + b * job.block / 2;
    char *out = static_cast<char *>(job.out) + b * job.block * Table::kBytes;
    for (int64_t i = 0; i < job.block; i += kUnit)
      values.template write<stream>(codes + i / 2, out + i * Table::kBytes);
  }
  if (stream) _mm_sfence();
}

template <class Format>
void dequantize(const DequantizeJob &job, int64_t first, int64_t last) {
  return job.stream ? dequantize<Format, true>(job, first, last) : dequantize<Format, false>(job, first, last);
}

}  // namespace

void dequantize_avx2(const DequantizeJob &job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case QUATRO_BF16: return dequantize<WideBFloat16>(job, first, last);
    case QUATRO_F16: return dequantize<WideFloat16>(job, first, last);
    default: return dequantize<WideFloat32>(job, first, last);
  }
}

}  // namespace quatro
