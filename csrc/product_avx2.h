// What both products share with AVX2. Internal linkage.
#ifndef QUATRO_PRODUCT_AVX2_H
#define QUATRO_PRODUCT_AVX2_H

#include <immintrin.h>

#include "convert.h"
#include "product.h"
#include "quatro.h"
#include "unrolled.h"

namespace quatro {
namespace {

inline __m256i add_pairs(__m256i sum, __m256i a, __m256i b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }

inline __m128i halves(__m256i words) {  // the low 16 bits of 8 words of 32
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08));
}

inline __m128i bfloat16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return halves(_mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc0), nan));
}

// Elements at .. at+7 of an output of `dtype`, as far as count says.
inline void store(void *out, int dtype, int64_t at, int64_t count, __m256 values) {
  alignas(32) char bytes[32];
  if (dtype == QUATRO_F32)
    _mm256_store_ps(reinterpret_cast<float *>(bytes), values);
  else
    _mm_store_si128(reinterpret_cast<__m128i *>(bytes),
                    dtype == QUATRO_BF16 ? bfloat16(values) : _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
  const int64_t width = dtype == QUATRO_F32 ? 4 : 2;
  __builtin_memcpy(static_cast<char *>(out) + at * width, bytes, static_cast<size_t>((count < 8 ? count : 8) * width));
}

// The bytes of 16 steps: all low ones, all high ones. Two 16-bit tables may stand in the two halves.
struct ByteTables {
  __m256i low, high;

  ByteTables(__m256i first, __m256i second) {  // 16 steps each, for the lower and the upper 128 bits
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    const __m256i a = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(first, order), 0xd8),
                  b = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(second, order), 0xd8);
    low = _mm256_permute2x128_si256(a, b, 0x20);
    high = _mm256_permute2x128_si256(a, b, 0x31);
  }
};

// 32 nibbles (one a byte) to steps: first those of bytes 0-7 of both halves, then those of bytes 8-15.
struct Steps {
  Steps(const ByteTables &tables, __m256i nibbles) {
    const __m256i low = _mm256_shuffle_epi8(tables.low, nibbles), high = _mm256_shuffle_epi8(tables.high, nibbles);
    first = _mm256_unpacklo_epi8(low, high);
    second = _mm256_unpackhi_epi8(low, high);
  }
  __m256i first, second;
};

inline __m256i high_nibbles(__m256i codes) { return _mm256_and_si256(_mm256_srli_epi16(codes, 4), _mm256_set1_epi8(15)); }
inline __m256i low_nibbles(__m256i codes) { return _mm256_and_si256(codes, _mm256_set1_epi8(15)); }

struct HalfWideLoad {
  static void load(const RowsJob &job, int64_t begin, int64_t count, float *values) {
    if (job.dtype == QUATRO_F32)
      __builtin_memcpy(values, static_cast<const float *>(job.source) + begin, static_cast<size_t>(count) * 4);
    else
      widen(static_cast<const uint16_t *>(job.source) + begin, job.dtype, count, values);
  }

  // Each 8 as 0 2 4 6 1 3 5 7: even ones meet high nibbles, odd ones low nibbles.
  static void store(const int32_t *integers, int count, int16_t *out) {
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    for (int i = 0; i < count; i += 8) {
      const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i *>(integers + i));
      const __m128i packed = _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packs_epi32(words, words), 0x08));
      _mm_storeu_si128(reinterpret_cast<__m128i *>(out + i), _mm_shuffle_epi8(packed, order));
    }
  }

 private:
  static void widen(const uint16_t *stored, int dtype, int64_t count, float *values) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
      const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i *>(stored + i));
      _mm256_storeu_ps(values + i, dtype == QUATRO_F16 ? _mm256_cvtph_ps(eight)
                                                       : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16)));
    }
    for (; i < count; ++i) values[i] = dtype == QUATRO_F16 ? Float16::load(stored[i]) : BFloat16::load(stored[i]);
  }
};

}  // namespace
}  // namespace quatro

#endif
