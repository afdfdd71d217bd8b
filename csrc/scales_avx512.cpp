// Double quantization of the scales with AVX512: 16 at a time, five of the eight search steps in registers.
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
      float step[16];
      for (int found = 0; found < 16; ++found)
        step[found] = thresholds[(found % (1 << k)) * (256 >> k) + (128 >> k) - 1];
      steps_[k] = _mm512_loadu_ps(step);
    }
  }

  __m512i position(__m512 x) const {
    __m512i found = _mm512_setzero_si512();
    for (int k = 0; k < kInRegisters; ++k) found = next(found, x, _mm512_permutexvar_ps(found, steps_[k]));
    for (int k = kInRegisters; k < 8; ++k) {
      const __m512i at = _mm512_sllv_epi32(found, _mm512_set1_epi32(8 - k));
      found = next(found, x, _mm512_i32gather_ps(at, thresholds_ + (128 >> k) - 1, 4));
    }
    return found;
  }

 private:
  static constexpr int kInRegisters = 5;

  static __m512i next(__m512i found, __m512 x, __m512 threshold) {
    const __mmask16 above = _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ);
    const __m512i twice = _mm512_add_epi32(found, found);
    return _mm512_mask_or_epi32(twice, above, twice, _mm512_set1_epi32(1));
  }

  const float *thresholds_;
  __m512 steps_[kInRegisters];
};

}  // namespace

int64_t quantize_scales_avx512(const QuantizeScalesJob &job, int64_t first, int64_t last) {
  const Search search(job.thresholds);
  const __m512 mean = _mm512_set1_ps(job.mean), one = _mm512_set1_ps(1.0f), minus_one = _mm512_set1_ps(-1.0f);
  for (int64_t g = first; g < last; ++g) {
    const float *scales = job.scales + g * job.group;
    __m512i magnitudes = _mm512_setzero_si512();
    for (int64_t i = 0; i < job.group; i += 16) {
      const __m512i rest = _mm512_castps_si512(_mm512_sub_ps(_mm512_loadu_ps(scales + i), mean));
      magnitudes = _mm512_max_epu32(magnitudes, _mm512_and_si512(rest, _mm512_set1_epi32(0x7fffffff)));
    }
    const uint32_t magnitude = _mm512_reduce_max_epu32(magnitudes);
    if (magnitude >= 0x7f800000u) return g;
    const float absmax = float_of(magnitude);
    job.group_absmax[g] = absmax;
    const __m512 inverse = _mm512_set1_ps(1.0f / (absmax > kSmallestScale ? absmax : kSmallestScale));
    for (int64_t i = 0; i < job.group; i += 16) {
      const __m512 scaled = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scales + i), mean), inverse);
      const __m512i position = search.position(_mm512_min_ps(_mm512_max_ps(scaled, minus_one), one));
      _mm_storeu_si128(reinterpret_cast<__m128i *>(job.codes + g * job.group + i), _mm512_cvtepi32_epi8(position));
    }
  }
  return -1;
}

void dequantize_scales_avx512(const DequantizeScalesJob &job, int64_t first, int64_t last) {
  const __m512 mean = _mm512_set1_ps(job.mean);
  for (int64_t g = first; g < last; ++g) {
    const __m512 absmax = _mm512_set1_ps(job.group_absmax[g]);
    for (int64_t i = g * job.group; i < (g + 1) * job.group; i += 16) {
      const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(job.codes + i)));
      const __m512 values = _mm512_i32gather_ps(codes, job.map, 4);
      _mm512_storeu_ps(job.out + i, _mm512_add_ps(_mm512_mul_ps(values, absmax), mean));
    }
  }
}

}  // namespace quatro
