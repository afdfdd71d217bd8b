// Steps of optimizers with AVX2, eight lanes at a time.
#include <immintrin.h>

#include "optimizer_steps.h"

namespace quatro {
namespace {

struct Eight {
  static constexpr int kLanes = 8;
  using Floats = __m256;
  using Ints = __m256i;
  struct Picks {
    explicit Picks(const float *eight) : eight(_mm256_loadu_ps(eight)) {}
    __m256 pick(__m256i i) const { return _mm256_permutevar8x32_ps(eight, i); }
    __m256 eight;
  };

  static __m256 all(float x) { return _mm256_set1_ps(x); }
  static __m256i ints(int32_t x) { return _mm256_set1_epi32(x); }
  static __m256 load(const float *x) { return _mm256_loadu_ps(x); }
  static void store(float *to, __m256 x) { _mm256_storeu_ps(to, x); }
  static __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
  static __m256 sub(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
  static __m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
  static __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
  static __m256 div(__m256 a, __m256 b) { return _mm256_div_ps(a, b); }
  static __m256 sqrt(__m256 x) { return _mm256_sqrt_ps(x); }
  static __m256 abs(__m256 x) { return _mm256_andnot_ps(all(-0.0f), x); }
  static __m256 larger(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
  static __m256 at_most(__m256 x, __m256 most) { return _mm256_min_ps(x, most); }
  static __m256 at_least(__m256 x, __m256 least) { return _mm256_max_ps(x, least); }
  static __m256i min(__m256i a, __m256i b) { return _mm256_min_epi32(a, b); }
  static __m256i to_ints(__m256 x) { return _mm256_cvttps_epi32(x); }
  static __m256i power_of_two(__m256i exponent, int more) { return _mm256_sllv_epi32(ints(1 << more), exponent); }
  static __m256 sign(__m256 x, __m256 step) {
    const __m256 nonzero = _mm256_or_ps(_mm256_cmp_ps(x, all(0.0f), _CMP_GT_OQ), _mm256_cmp_ps(x, all(0.0f), _CMP_LT_OQ));
    return _mm256_and_ps(nonzero, _mm256_xor_ps(step, _mm256_and_ps(x, all(-0.0f))));
  }
  static __m256i where(__m256 mask, __m256i then, __m256i otherwise) {
    return _mm256_blendv_epi8(otherwise, then, _mm256_castps_si256(mask));
  }
  static __m256i add_where_at_least(__m256i to, __m256 x, __m256 edge) {
    return _mm256_sub_epi32(to, _mm256_castps_si256(_mm256_cmp_ps(x, edge, _CMP_GE_OQ)));
  }
  static __m256i where_at_least(__m256 x, __m256 edge, __m256i then, __m256i otherwise) {
    return where(_mm256_cmp_ps(x, edge, _CMP_GE_OQ), then, otherwise);
  }
  static __m256i where_zero(__m256 x, __m256i then, __m256i otherwise) {
    return where(_mm256_cmp_ps(x, all(0.0f), _CMP_EQ_OQ), then, otherwise);
  }
  static __m256i negate_where_negative(__m256i i, __m256 x) {
    return where(_mm256_cmp_ps(x, all(0.0f), _CMP_LT_OQ), _mm256_sub_epi32(ints(0), i), i);
  }
  static __m256 positive_part(__m256 value, __m256 x) {
    return _mm256_andnot_ps(_mm256_cmp_ps(value, all(0.0f), _CMP_LT_OQ), x);
  }
  static void store_codes(uint8_t *to, __m256i codes) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(to), _mm_packus_epi16(words, words));
  }
  static void expand(const uint8_t *codes, const float *map, const uint8_t *, float absmax, float *values) {
    for (int64_t i = 0; i < kStateBlock; i += kLanes) {
      const __m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(codes + i)));
      store(values + i, mul(_mm256_i32gather_ps(map, at, 4), all(absmax)));
    }
  }
};

}  // namespace

StepKernels steps_avx2() { return steps_of<Eight>(); }

}  // namespace quatro
