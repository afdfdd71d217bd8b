// g W with AVX512: a vector holds the weights of 16 inputs for a pair of outputs, and gradients are broadcast pair by pair.
#include "backward_steps.h"
#include "product_avx512.h"

namespace quatro {
namespace {

constexpr int64_t kMostRows = 6;  // rows of gradients whose sums fit the registers, for 64 inputs
constexpr int64_t kAhead = 128;   // outputs whose codes are asked for before they are needed: each is a page of memory away
constexpr int64_t kVectors = kBackwardInputs / 16;

struct Panel {
  Panel(int64_t rows, void *memory)
      : pairs(static_cast<__m512i *>(memory)),
        sums(reinterpret_cast<float *>(pairs + kBackwardOutputs / 2 * kVectors)),
        rest(sums + rows * kBackwardInputs) {}
  __m512i *pairs;  // (kBackwardOutputs / 2, kVectors)
  float *sums;     // (rows, kBackwardInputs)
  float *rest;
};

// The steps of all codes of outputs n and n + 4 in the b-th 32 inputs, side by side: the second ones are read by indices from 16.
__m512i pair_steps(const BackwardSteps &steps, __m512 table, int64_t n, int64_t b) {
  const auto one = [&](int64_t n) {
    const __m512 most = _mm512_set1_ps(kBackwardFull), least = _mm512_set1_ps(-kBackwardFull);
    const __m512 shifted = _mm512_sub_ps(table, _mm512_set1_ps(steps.zero(n, b)));
    const __m512 value = _mm512_mul_ps(shifted, _mm512_set1_ps(steps.factor(n, b)));
    return _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value, least), most)));
  };
  return _mm512_inserti64x4(_mm512_castsi256_si512(one(n)), one(n + 4), 1);
}

// 32 inputs of two outputs -> pairs of steps of the even inputs, and of the odd ones.
struct Decoded {
  Decoded(const uint8_t *first, const uint8_t *second, __m512i steps) {
    const __m512i both = _mm512_or_si512(spread(first), _mm512_slli_epi32(spread(second), 16));
    even = _mm512_permutexvar_epi16(index(_mm512_srli_epi32(both, 4)), steps);
    odd = _mm512_permutexvar_epi16(index(both), steps);
  }
  __m512i even, odd;

 private:
  static __m512i spread(const uint8_t *codes) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(codes)));
  }
  static __m512i index(__m512i codes) {  // (codes & 15), and 16 more in the upper half of a dword
    return _mm512_ternarylogic_epi32(codes, _mm512_set1_epi32(0x000f000f), _mm512_set1_epi32(0x00100000), 0xea);
  }
};

// Outputs [first, last) of a tile of inputs into the panel.
void decode(const Weight &weight, const BackwardSteps &steps, int64_t first, int64_t last, int64_t column, int64_t columns,
            const Panel &panel) {
  const __m512 table = _mm512_loadu_ps(weight.table);
  const int64_t bytes = weight.inputs / 2, end = weight.outputs - 1;
  const uint8_t *codes = weight.codes + column / 2;
  __m512i *out = panel.pairs;
  for (int64_t eight = first; eight < last; eight += 8) {
    if (column % 128 == 0)  // a line of memory holds two tiles
      for (int64_t n = eight + kAhead; n < eight + kAhead + 8; ++n)
        _mm_prefetch(reinterpret_cast<const char *>(codes + (n < end ? n : end) * bytes), _MM_HINT_T1);
    for (int64_t n = eight; n < eight + 4; ++n, out += kVectors) {  // with n + 4: gradients stand as 0 4 1 5 2 6 3 7
      const uint8_t *a = codes + (n < end ? n : end) * bytes, *b = codes + (n + 4 < end ? n + 4 : end) * bytes;
      __m512i meaning = pair_steps(steps, table, n, 0);
      for (int64_t k = 0; k < columns; k += 32) {
        if (k && weight.block == 32) meaning = pair_steps(steps, table, n, 1);
        const Decoded decoded(a + k / 2, b + k / 2, meaning);
        _mm512_storeu_si512(out + k / 16, decoded.even);
        _mm512_storeu_si512(out + k / 16 + 1, decoded.odd);
      }
    }
  }
}

// Rows [t, t + tokens) times the decoded outputs, units [begin, end).
template <int tokens>
void multiply(const ProductJob &job, const BackwardSteps &steps, const Panel &panel, int64_t t, int64_t begin,
              int64_t end) {
  const Rows &rows = job.rows;
  const __m512i *pairs = panel.pairs;
  for (int64_t u = begin; u < end; ++u) {
    const int16_t *g = rows.values + (u * rows.count + t) * kBackwardUnit;
    __m512i sums[tokens][kVectors];
    unrolled<tokens * kVectors>([&](auto i) QUATRO_INLINE { sums[i / kVectors][i % kVectors] = _mm512_setzero_si512(); });
    for (int64_t p = 0; p < kBackwardUnit / 2; ++p, pairs += kVectors) {
      const __m512i w[kVectors] = {_mm512_loadu_si512(pairs), _mm512_loadu_si512(pairs + 1), _mm512_loadu_si512(pairs + 2),
                                   _mm512_loadu_si512(pairs + 3)};
      unrolled<tokens>([&](auto i) QUATRO_INLINE {
        const __m512i both = broadcast_pair(g + i * kBackwardUnit + 2 * p);
        unrolled<kVectors>([&](auto v) QUATRO_INLINE { sums[i][v] = add_pairs(sums[i][v], w[v], both); });
      });
    }
    const float full = steps.full(u), *scales = rows.scales + u * rows.count + t;
    unrolled<tokens>([&](auto i) QUATRO_INLINE {
      const __m512 scale = _mm512_set1_ps(full * scales[i]);
      unrolled<kVectors>([&](auto v) QUATRO_INLINE {
        float *total = panel.sums + (t + i) * kBackwardInputs + 16 * v;
        _mm512_storeu_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][v]), scale, _mm512_loadu_ps(total)));
      });
    });
  }
}

using Multiply = void (*)(const ProductJob &, const BackwardSteps &, const Panel &, int64_t, int64_t, int64_t);
constexpr Multiply kMultiply[kMostRows] = {multiply<1>, multiply<2>, multiply<3>, multiply<4>, multiply<5>, multiply<6>};

// Row t's gradients of the tile: even and odd inputs of each 32 side by side again.
void write(const ProductJob &job, const Panel &panel, int64_t t, int64_t column, int64_t columns) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const __m512 value = _mm512_set1_ps(job.unit_value), power = _mm512_set1_ps(job.rows.powers[t]);
  for (int64_t k = 0; k < columns; k += 32) {
    const float *sums = panel.sums + t * kBackwardInputs + k;
    const __m512 even = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(sums), value), power);
    const __m512 odd = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(sums + 16), value), power);
    const int64_t at = t * job.weight.inputs + column + k;
    store(job.out, job.dtype, at, 0xffff, _mm512_permutex2var_ps(even, low, odd));
    store(job.out, job.dtype, at + 16, 0xffff, _mm512_permutex2var_ps(even, high, odd));
  }
}

}  // namespace

void linear_backward_avx512(const ProductJob &job, int64_t first, int64_t last, void *memory) {
  const Weight &weight = job.weight;
  const Panel panel(job.rows.count, memory);
  BackwardSteps steps(job, panel.rest);
  const int64_t count = job.rows.count, turns = (count + kMostRows - 1) / kMostRows;
  const int64_t outputs = job.rows.units * kBackwardUnit;
  for (int64_t group = first; group < last; ++group) {
    const int64_t column = group * kBackwardInputs, rest = weight.inputs - column;
    const int64_t columns = rest < kBackwardInputs ? rest : kBackwardInputs;
    steps.turn_to(column, columns);
    for (int64_t i = 0; i < count * kBackwardInputs; i += 16) _mm512_storeu_ps(panel.sums + i, _mm512_setzero_ps());
    for (int64_t begin = 0; begin < outputs; begin += kBackwardOutputs) {
      const int64_t end = begin + kBackwardOutputs < outputs ? begin + kBackwardOutputs : outputs;
      decode(weight, steps, begin, end, column, columns, panel);
      for (int64_t turn = 0; turn < turns; ++turn) {
        const int64_t t = count * turn / turns, rows = count * (turn + 1) / turns - t;
        kMultiply[rows - 1](job, steps, panel, t, begin / kBackwardUnit, end / kBackwardUnit);
      }
    }
    for (int64_t t = 0; t < count; ++t) write(job, panel, t, column, columns);
  }
}

}  // namespace quatro
