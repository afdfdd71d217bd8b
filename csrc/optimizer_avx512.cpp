// Steps of optimizers with AVX512, sixteen lanes at a time; 8-bit states are read by byte permutations, 64 at a time.
#include <immintrin.h>

#include "optimizer_steps.h"

namespace quatro {
namespace {

struct Sixteen {
  static constexpr int kLanes = 16;
  using Floats = __m512;
  using Ints = __m512i;
  struct Picks {
    explicit Picks(const float *eight) : eight(_mm512_castps256_ps512(_mm256_loadu_ps(eight))) {}
    __m512 pick(__m512i i) const { return _mm512_permutexvar_ps(i, eight); }
    __m512 eight;
  };

  static __m512 all(float x) { return _mm512_set1_ps(x); }
  static __m512i ints(int32_t x) { return _mm512_set1_epi32(x); }
  static __m512 load(const float *x) { return _mm512_loadu_ps(x); }
  static void store(float *to, __m512 x) { _mm512_storeu_ps(to, x); }
  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static __m512i add(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
  static __m512 sub(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
  static __m512i sub(__m512i a, __m512i b) { return _mm512_sub_epi32(a, b); }
  static __m512 mul(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
  static __m512 div(__m512 a, __m512 b) { return _mm512_div_ps(a, b); }
  static __m512 sqrt(__m512 x) { return _mm512_sqrt_ps(x); }
  static __m512 abs(__m512 x) { return _mm512_andnot_ps(all(-0.0f), x); }
  static __m512 larger(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
  static __m512 at_most(__m512 x, __m512 most) { return _mm512_min_ps(x, most); }
  static __m512 at_least(__m512 x, __m512 least) { return _mm512_max_ps(x, least); }
  static __m512i min(__m512i a, __m512i b) { return _mm512_min_epi32(a, b); }
  static __m512i to_ints(__m512 x) { return _mm512_cvttps_epi32(x); }
  static __m512i power_of_two(__m512i exponent, int more) { return _mm512_sllv_epi32(ints(1 << more), exponent); }
  static __m512 sign(__m512 x, __m512 step) {
    const __mmask16 nonzero = _mm512_cmp_ps_mask(x, all(0.0f), _CMP_GT_OQ) | _mm512_cmp_ps_mask(x, all(0.0f), _CMP_LT_OQ);
    return _mm512_maskz_xor_ps(nonzero, step, _mm512_and_ps(x, all(-0.0f)));
  }
  static __m512i add_where_at_least(__m512i to, __m512 x, __m512 edge) {
    return _mm512_mask_add_epi32(to, _mm512_cmp_ps_mask(x, edge, _CMP_GE_OQ), to, ints(1));
  }
  static __m512i where_at_least(__m512 x, __m512 edge, __m512i then, __m512i otherwise) {
    return _mm512_mask_mov_epi32(otherwise, _mm512_cmp_ps_mask(x, edge, _CMP_GE_OQ), then);
  }
  static __m512i where_zero(__m512 x, __m512i then, __m512i otherwise) {
    return _mm512_mask_mov_epi32(otherwise, _mm512_cmp_ps_mask(x, all(0.0f), _CMP_EQ_OQ), then);
  }
  static __m512i negate_where_negative(__m512i i, __m512 x) {
    return _mm512_mask_sub_epi32(i, _mm512_cmp_ps_mask(x, all(0.0f), _CMP_LT_OQ), ints(0), i);
  }
  static __m512 positive_part(__m512 value, __m512 x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(value, all(0.0f), _CMP_NLT_UQ), x);
  }
  static void store_codes(uint8_t *to, __m512i codes) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtepi32_epi8(codes));
  }

  // Byte `plane` of the values of 64 codes.
  QUATRO_INLINE static __m512i bytes(__m512i codes, __mmask64 upper, const uint8_t *plane) {
    const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(plane), codes, _mm512_load_si512(plane + 64));
    const __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(plane + 128), codes, _mm512_load_si512(plane + 192));
    return _mm512_mask_mov_epi8(low, upper, high);
  }

  static void expand(const uint8_t *codes, const float *, const uint8_t *planes, float absmax, float *values) {
    const __m512 scale = all(absmax);
    // Unpacking works within lanes of 16 bytes; in this order its results are in the order of the codes.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int64_t i = 0; i < kStateBlock; i += 64) {
      const __m512i mine = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes + i));
      const __mmask64 upper = _mm512_movepi8_mask(mine);
      __m512i part[4];
      unrolled<4>([&](auto plane) QUATRO_INLINE { part[plane] = bytes(mine, upper, planes + 256 * plane); });
      const __m512i low0 = _mm512_unpacklo_epi8(part[0], part[1]), low1 = _mm512_unpackhi_epi8(part[0], part[1]);
      const __m512i high0 = _mm512_unpacklo_epi8(part[2], part[3]), high1 = _mm512_unpackhi_epi8(part[2], part[3]);
      const __m512i four[] = {_mm512_unpacklo_epi16(low0, high0), _mm512_unpackhi_epi16(low0, high0),
                              _mm512_unpacklo_epi16(low1, high1), _mm512_unpackhi_epi16(low1, high1)};
      unrolled<4>([&](auto k) QUATRO_INLINE { store(values + i + 16 * k, mul(_mm512_castsi512_ps(four[k]), scale)); });
    }
  }
};

}  // namespace

StepKernels steps_avx512() { return steps_of<Sixteen>(); }

}  // namespace quatro
