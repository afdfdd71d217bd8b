// Double quantization of the scales with AVX2: 8 at a time, four of the eight search steps in registers.
#include <immintrin.h>

#include "convert.h"
#include "kernels.h"

namespace quatro {
namespace {

// Step k knows k bits of the position, `found`, and compares with threshold found * 2^(8-k) + 2^(7-k) - 1.
class Search {
 public:
  explicit Search(const float *thresholds) : thresholds_(thresholds) {
    for (int k = 0; k < kInRegisters; ++k) {
      float step[8];
      for (int found = 0; found < 8; ++found)
        step[found] = thresholds[(found % (1 << k)) * (256 >> k) + (128 >> k) - 1];
      steps_[k] = _mm256_loadu_ps(step);
    }
  }

  __m256i position(__m256 x) const {
    __m256i found = _mm256_setzero_si256();
    for (int k = 0; k < kInRegisters; ++k) found = next(found, x, _mm256_permutevar8x32_ps(steps_[k], found));
    for (int k = kInRegisters; k < 8; ++k) {
      const __m256i at = _mm256_sllv_epi32(found, _mm256_set1_epi32(8 - k));
      found = next(found, x, _mm256_i32gather_ps(thresholds_ + (128 >> k) - 1, at, 4));
    }
    return found;
  }

 private:
  static constexpr int kInRegisters = 4;

  static __m256i next(__m256i found, __m256 x, __m256 threshold) {
    const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GT_OQ));
    return _mm256_sub_epi32(_mm256_add_epi32(found, found), above);
  }

  const float *thresholds_;
  __m256 steps_[kInRegisters];
};

uint32_t largest(__m256i x) {
  __m128i half = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1))));
}

void store_bytes(uint8_t *out, __m256i words) {  // the low bytes of 8 words of 32
  const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i *>(out), _mm_packus_epi16(halves, halves));
}

}  // namespace

int64_t quantize_scales_avx2(const QuantizeScalesJob &job, int64_t first, int64_t last) {
  const Search search(job.thresholds);
  const __m256 mean = _mm256_set1_ps(job.mean), one = _mm256_set1_ps(1.0f), minus_one = _mm256_set1_ps(-1.0f);
  for (int64_t g = first; g < last; ++g) {
    const float *scales = job.scales + g * job.group;
    __m256i magnitudes = _mm256_setzero_si256();
    for (int64_t i = 0; i < job.group; i += 8) {
      const __m256i rest = _mm256_castps_si256(_mm256_sub_ps(_mm256_loadu_ps(scales + i), mean));
      magnitudes = _mm256_max_epu32(magnitudes, _mm256_and_si256(rest, _mm256_set1_epi32(0x7fffffff)));
    }
    const uint32_t magnitude = largest(magnitudes);
    if (magnitude >= 0x7f800000u) return g;
    const float absmax = float_of(magnitude);
    job.group_absmax[g] = absmax;
    const __m256 inverse = _mm256_set1_ps(1.0f / (absmax > kSmallestScale ? absmax : kSmallestScale));
    for (int64_t i = 0; i < job.group; i += 8) {
      const __m256 scaled = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(scales + i), mean), inverse);
      store_bytes(job.codes + g * job.group + i, search.position(_mm256_min_ps(_mm256_max_ps(scaled, minus_one), one)));
    }
  }
  return -1;
}

void dequantize_scales_avx2(const DequantizeScalesJob &job, int64_t first, int64_t last) {
  const __m256 mean = _mm256_set1_ps(job.mean);
  for (int64_t g = first; g < last; ++g) {
    const __m256 absmax = _mm256_set1_ps(job.group_absmax[g]);
    for (int64_t i = g * job.group; i < (g + 1) * job.group; i += 8) {
      const __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(job.codes + i)));
      const __m256 values = _mm256_i32gather_ps(job.map, codes, 4);
      _mm256_storeu_ps(job.out + i, _mm256_add_ps(_mm256_mul_ps(values, absmax), mean));
    }
  }
}

}  // namespace quatro
