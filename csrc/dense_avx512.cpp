// Dense 16-bit weights with AVX512: four outputs at a time, each converted vector multiplied with up to four rows.
#include "dense.h"

#include <immintrin.h>

#include "prefetch.h"
#include "quatro.h"
#include "unrolled.h"

namespace quatro {
namespace {

constexpr int kOutputs = 4, kRows = 4;

struct BFloat16 {
  static __m512 widen(__m256i stored) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(stored), 16)); }
};
struct Float16 {
  static __m512 widen(__m256i stored) { return _mm512_cvtph_ps(stored); }
};

float sum(__m512 lanes) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Outputs n .. n+outputs-1 of rows t .. t+rows-1.
template <class Format, int outputs, int rows>
void multiply(const DenseJob &job, int64_t n, int64_t t) {
  const uint16_t *w = job.weight + n * job.inputs;
  const float *x = job.x + t * job.inputs;
  __m512 sums[outputs][rows];
  unrolled<outputs * rows>([&](auto i) QUATRO_INLINE { sums[i / rows][i % rows] = _mm512_setzero_ps(); });
  const auto step = [&](int64_t at, __mmask16 mask) QUATRO_INLINE {
    __m512 values[rows];
    unrolled<rows>([&](auto i) QUATRO_INLINE { values[i] = _mm512_maskz_loadu_ps(mask, x + i * job.inputs + at); });
    unrolled<outputs>([&](auto o) QUATRO_INLINE {
      const __m512 wide = Format::widen(_mm256_maskz_loadu_epi16(mask, w + o * job.inputs + at));
      unrolled<rows>([&](auto i) QUATRO_INLINE { sums[o][i] = _mm512_fmadd_ps(wide, values[i], sums[o][i]); });
    });
  };
  int64_t at = 0;
  for (; at + kDenseLanes <= job.inputs; at += kDenseLanes) {
    if (at % (2 * kDenseLanes) == 0)  // a line of outputs to come
      unrolled<outputs>([&](auto o) QUATRO_INLINE { ask_for(w + (4 * outputs + o) * job.inputs + at, 1); });
    step(at, 0xffff);
  }
  if (at < job.inputs) step(at, static_cast<__mmask16>((1u << (job.inputs - at)) - 1));
  unrolled<outputs * rows>([&](auto i) QUATRO_INLINE {
    const int64_t output = n + i / rows;
    const float y = sum(sums[i / rows][i % rows]);
    job.out[(t + i % rows) * job.outputs + output] = job.bias ? y + job.bias[output] : y;
  });
}

template <class Format, int outputs>
void all_rows(const DenseJob &job, int64_t n) {
  constexpr decltype(&multiply<Format, outputs, 1>) kMultiply[kRows] = {
      multiply<Format, outputs, 1>, multiply<Format, outputs, 2>, multiply<Format, outputs, 3>, multiply<Format, outputs, 4>};
  for (int64_t t = 0; t < job.rows; t += kRows) kMultiply[(job.rows - t < kRows ? job.rows - t : kRows) - 1](job, n, t);
}

template <class Format>
void dense(const DenseJob &job, int64_t first, int64_t last) {
  int64_t n = first;
  for (; n + kOutputs <= last; n += kOutputs) all_rows<Format, kOutputs>(job, n);
  for (; n < last; ++n) all_rows<Format, 1>(job, n);
}

}  // namespace

void dense_avx512(const DenseJob &job, int64_t first, int64_t last) {
  return job.dtype == QUATRO_BF16 ? dense<BFloat16>(job, first, last) : dense<Float16>(job, first, last);
}

}  // namespace quatro
