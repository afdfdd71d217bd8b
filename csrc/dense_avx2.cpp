// Dense 16-bit weights with AVX2: sixteen partial sums in two registers; two outputs at a time, times up to two rows.
#include "dense.h"

#include <immintrin.h>

#include "prefetch.h"
#include "quatro.h"
#include "unrolled.h"

namespace quatro {
namespace {

constexpr int kOutputs = 2, kRows = 2;

struct BFloat16 {
  static __m256 widen(__m128i stored) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(stored), 16));
  }
};
struct Float16 {
  static __m256 widen(__m128i stored) { return _mm256_cvtph_ps(stored); }
};

float sum(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

__m128i eight(const uint16_t *w) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(w)); }

// Outputs n .. n+outputs-1 of rows t .. t+rows-1.
template <class Format, int outputs, int rows>
void multiply(const DenseJob &job, int64_t n, int64_t t) {
  __m256 sums[outputs][rows][2];
  unrolled<outputs * rows>([&](auto i) QUATRO_INLINE {
    sums[i / rows][i % rows][0] = sums[i / rows][i % rows][1] = _mm256_setzero_ps();
  });
  const auto step = [&](const uint16_t *w, int64_t w_stride, const float *x, int64_t x_stride) QUATRO_INLINE {
    unrolled<outputs>([&](auto o) QUATRO_INLINE {
      unrolled<2>([&](auto half) QUATRO_INLINE {
        const __m256 wide = Format::widen(eight(w + o * w_stride + 8 * half));
        unrolled<rows>([&](auto i) QUATRO_INLINE {
          sums[o][i][half] = _mm256_fmadd_ps(wide, _mm256_loadu_ps(x + i * x_stride + 8 * half), sums[o][i][half]);
        });
      });
    });
  };
  const uint16_t *w = job.weight + n * job.inputs;
  const float *x = job.x + t * job.inputs;
  int64_t at = 0;
  for (; at + kDenseLanes <= job.inputs; at += kDenseLanes) {
    if (at % (2 * kDenseLanes) == 0)  // a line of outputs to come
      unrolled<outputs>([&](auto o) QUATRO_INLINE { ask_for(w + (4 * outputs + o) * job.inputs + at, 1); });
    step(w + at, job.inputs, x + at, job.inputs);
  }
  if (at < job.inputs) {
    uint16_t last_w[outputs][kDenseLanes] = {};
    float last_x[rows][kDenseLanes] = {};
    const auto rest = static_cast<size_t>(job.inputs - at);
    for (int64_t o = 0; o < outputs; ++o) __builtin_memcpy(last_w[o], w + o * job.inputs + at, rest * 2);
    for (int64_t i = 0; i < rows; ++i) __builtin_memcpy(last_x[i], x + i * job.inputs + at, rest * 4);
    step(last_w[0], kDenseLanes, last_x[0], kDenseLanes);
  }
  unrolled<outputs * rows>([&](auto i) QUATRO_INLINE {
    const int64_t output = n + i / rows;
    const float y = sum(sums[i / rows][i % rows][0], sums[i / rows][i % rows][1]);
    job.out[(t + i % rows) * job.outputs + output] = job.bias ? y + job.bias[output] : y;
  });
}

template <class Format, int outputs>
void all_rows(const DenseJob &job, int64_t n) {
  for (int64_t t = 0; t < job.rows; t += kRows)
    job.rows - t >= kRows ? multiply<Format, outputs, kRows>(job, n, t) : multiply<Format, outputs, 1>(job, n, t);
}

template <class Format>
void dense(const DenseJob &job, int64_t first, int64_t last) {
  int64_t n = first;
  for (; n + kOutputs <= last; n += kOutputs) all_rows<Format, kOutputs>(job, n);
  for (; n < last; ++n) all_rows<Format, 1>(job, n);
}

}  // namespace

void dense_avx2(const DenseJob &job, int64_t first, int64_t last) {
  return job.dtype == QUATRO_BF16 ? dense<BFloat16>(job, first, last) : dense<Float16>(job, first, last);
}

}  // namespace quatro
