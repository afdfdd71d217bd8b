// What both products share with AVX512. Internal linkage.
#ifndef QUATRO_PRODUCT_AVX512_H
#define QUATRO_PRODUCT_AVX512_H

#include <immintrin.h>

#include "product.h"
#include "quatro.h"
#include "unrolled.h"

namespace quatro {
namespace {

inline __mmask16 first_of_16(int64_t count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

inline __m512i broadcast_pair(const int16_t *pair) {
  int32_t both;
  __builtin_memcpy(&both, pair, sizeof both);
  return _mm512_set1_epi32(both);
}

// sum + pairs of a times pairs of b. Written out because GCC 12 copies the sum around its own intrinsic.
inline __m512i add_pairs(__m512i sum, __m512i a, __m512i b) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

inline __m256i bfloat16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_set1_epi32(_mm512_srli_epi32(up, 16), nan, 0x7fc0));
}

// Element `at` of an output of `dtype` and the 15 after it, as far as mask says.
inline void store(void *out, int dtype, int64_t at, __mmask16 mask, __m512 values) {
  if (dtype == QUATRO_F32)
    _mm512_mask_storeu_ps(static_cast<float *>(out) + at, mask, values);
  else
    _mm256_mask_storeu_epi16(static_cast<uint16_t *>(out) + at, mask,
                             dtype == QUATRO_BF16 ? bfloat16(values)
                                                  : _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}

struct WideLoad {
  // Each 8 as 0 4 1 5 2 6 3 7: the pairs that a shifted dword of codes ends with.
  static void store(const int32_t *integers, int count, int16_t *out) {
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    for (int i = 0; i < count; i += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + i),
                          _mm256_shuffle_epi8(_mm512_cvtepi32_epi16(_mm512_load_si512(integers + i)), order));
  }

  static void load(const RowsJob &job, int64_t begin, int64_t count, float *values) {
    for (int64_t i = 0; i < count; i += 16) {
      const __mmask16 mask = first_of_16(count - i);
      __m512 x;
      if (job.dtype == QUATRO_F32) {
        x = _mm512_maskz_loadu_ps(mask, static_cast<const float *>(job.source) + begin + i);
      } else {
        const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t *>(job.source) + begin + i);
        x = job.dtype == QUATRO_BF16 ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))
                                     : _mm512_cvtph_ps(half);
      }
      _mm512_mask_storeu_ps(values + i, mask, x);
    }
  }
};

}  // namespace
}  // namespace quatro

#endif
