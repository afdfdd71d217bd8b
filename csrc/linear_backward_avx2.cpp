// g W with AVX2: a vector holds the weights of 8 inputs for a pair of outputs, and gradients are broadcast pair by pair.
#include "backward_steps.h"
#include "product_avx2.h"

namespace quatro {
namespace {

constexpr int64_t kMostRows = 4;  // rows of gradients whose sums fit the registers, for two vectors of weights
constexpr int64_t kParts = 4;     // part i holds inputs 8i .. 8i+7 and 32+8i .. 39+8i of a tile: even ones, odd ones
constexpr int64_t kAhead = 128;   // outputs whose codes are asked for before they are needed: each is a page of memory away

struct Panel {
  Panel(int64_t rows, void *memory)
      : pairs(static_cast<__m256i *>(memory)),
        sums(reinterpret_cast<float *>(pairs + kParts * kBackwardOutputs)),
        rest(sums + rows * kBackwardInputs) {}
  __m256i *pairs;  // (kParts, kBackwardOutputs / 2, 2)
  float *sums;     // (rows, kParts, 2, 8)
  float *rest;
};

inline __m256i broadcast_pair(const int16_t *pair) {
  int32_t both;
  __builtin_memcpy(&both, pair, sizeof both);
  return _mm256_set1_epi32(both);
}

// The steps of all codes of output n, in both halves of a tile.
ByteTables steps_of(const BackwardSteps &steps, const float *table, int64_t n) {
  const auto some = [&](int from, int64_t b) {
    const __m256 most = _mm256_set1_ps(kBackwardFull), least = _mm256_set1_ps(-kBackwardFull);
    const __m256 shifted = _mm256_sub_ps(_mm256_loadu_ps(table + from), _mm256_set1_ps(steps.zero(n, b)));
    const __m256 value = _mm256_mul_ps(shifted, _mm256_set1_ps(steps.factor(n, b)));
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, least), most));
  };
  const auto all = [&](int64_t b) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(some(0, b), some(8, b)), 0xd8);
  };
  return ByteTables(all(0), all(1));
}

// 32 nibbles of two outputs to pairs of steps: part i of them.
void write_pairs(const ByteTables &first, const ByteTables &second, __m256i a, __m256i b, __m256i *out) {
  constexpr int64_t kPart = kBackwardOutputs;
  const Steps x(first, a), y(second, b);
  _mm256_storeu_si256(out, _mm256_unpacklo_epi16(x.first, y.first));
  _mm256_storeu_si256(out + kPart, _mm256_unpackhi_epi16(x.first, y.first));
  _mm256_storeu_si256(out + 2 * kPart, _mm256_unpacklo_epi16(x.second, y.second));
  _mm256_storeu_si256(out + 3 * kPart, _mm256_unpackhi_epi16(x.second, y.second));
}

__m256i codes_of(const uint8_t *codes, int64_t columns) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes));
  if (columns == 32) return _mm256_castsi128_si256(low);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes + 16)), 1);
}

// Outputs [first, last) of a tile of inputs into the panel.
void decode(const Weight &weight, const BackwardSteps &steps, int64_t first, int64_t last, int64_t column, int64_t columns,
            const Panel &panel) {
  const int64_t bytes = weight.inputs / 2, end = weight.outputs - 1;
  const uint8_t *codes = weight.codes + column / 2;
  __m256i *out = panel.pairs;
  for (int64_t eight = first; eight < last; eight += 8) {
    if (column % 128 == 0)  // a line of memory holds two tiles
      for (int64_t n = eight + kAhead; n < eight + kAhead + 8; ++n)
        _mm_prefetch(reinterpret_cast<const char *>(codes + (n < end ? n : end) * bytes), _MM_HINT_T1);
    for (int64_t n : {eight, eight + 4, eight + 1, eight + 5}) {  // with n + 2: gradients stand as 0 2 4 6 1 3 5 7
      const __m256i a = codes_of(codes + (n < end ? n : end) * bytes, columns);
      const __m256i b = codes_of(codes + (n + 2 < end ? n + 2 : end) * bytes, columns);
      const ByteTables one = steps_of(steps, weight.table, n), other = steps_of(steps, weight.table, n + 2);
      write_pairs(one, other, high_nibbles(a), high_nibbles(b), out);
      write_pairs(one, other, low_nibbles(a), low_nibbles(b), out + 1);
      out += 2;
    }
  }
}

// Rows [t, t + tokens) times a part of the decoded outputs, units [begin, end).
template <int tokens>
void multiply(const ProductJob &job, const BackwardSteps &steps, const Panel &panel, int64_t part, int64_t t, int64_t begin,
              int64_t end) {
  const Rows &rows = job.rows;
  const __m256i *pairs = panel.pairs + part * kBackwardOutputs;
  for (int64_t u = begin; u < end; ++u) {
    const int16_t *g = rows.values + (u * rows.count + t) * kBackwardUnit;
    __m256i sums[tokens][2];
    unrolled<tokens>([&](auto i) QUATRO_INLINE { sums[i][0] = sums[i][1] = _mm256_setzero_si256(); });
    for (int64_t p = 0; p < kBackwardUnit / 2; ++p, pairs += 2, g += 2) {
      const __m256i even = _mm256_loadu_si256(pairs), odd = _mm256_loadu_si256(pairs + 1);
      unrolled<tokens>([&](auto i) QUATRO_INLINE {
        const __m256i both = broadcast_pair(g + i * kBackwardUnit);
        sums[i][0] = add_pairs(sums[i][0], even, both);
        sums[i][1] = add_pairs(sums[i][1], odd, both);
      });
    }
    const float full = steps.full(u), *scales = rows.scales + u * rows.count + t;
    unrolled<tokens>([&](auto i) QUATRO_INLINE {
      const __m256 scale = _mm256_set1_ps(full * scales[i]);
      float *total = panel.sums + (t + i) * kBackwardInputs + 16 * part;
      _mm256_storeu_ps(total, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[i][0]), scale, _mm256_loadu_ps(total)));
      _mm256_storeu_ps(total + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[i][1]), scale, _mm256_loadu_ps(total + 8)));
    });
  }
}

using Multiply = void (*)(const ProductJob &, const BackwardSteps &, const Panel &, int64_t, int64_t, int64_t, int64_t);
constexpr Multiply kMultiply[kMostRows] = {multiply<1>, multiply<2>, multiply<3>, multiply<4>};

// Row t's gradients of the tile: even and odd inputs side by side again.
void write(const ProductJob &job, const Panel &panel, int64_t t, int64_t column, int64_t columns) {
  const __m256 value = _mm256_set1_ps(job.unit_value), power = _mm256_set1_ps(job.rows.powers[t]);
  for (int64_t part = 0; part < kParts; ++part) {
    const float *sums = panel.sums + t * kBackwardInputs + 16 * part;
    const __m256 even = _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(sums), value), power);
    const __m256 odd = _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(sums + 8), value), power);
    const __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    const int64_t at = t * job.weight.inputs + column + 8 * part;
    store(job.out, job.dtype, at, 8, _mm256_permute2f128_ps(low, high, 0x20));
    if (columns > 32) store(job.out, job.dtype, at + 32, 8, _mm256_permute2f128_ps(low, high, 0x31));
  }
}

}  // namespace

void linear_backward_avx2(const ProductJob &job, int64_t first, int64_t last, void *memory) {
  const Weight &weight = job.weight;
  const Panel panel(job.rows.count, memory);
  BackwardSteps steps(job, panel.rest);
  const int64_t count = job.rows.count, turns = (count + kMostRows - 1) / kMostRows;
  const int64_t outputs = job.rows.units * kBackwardUnit;
  for (int64_t group = first; group < last; ++group) {
    const int64_t column = group * kBackwardInputs, rest = weight.inputs - column;
    const int64_t columns = rest < kBackwardInputs ? rest : kBackwardInputs;
    steps.turn_to(column, columns);
    for (int64_t i = 0; i < count * kBackwardInputs; i += 8) _mm256_storeu_ps(panel.sums + i, _mm256_setzero_ps());
    for (int64_t begin = 0; begin < outputs; begin += kBackwardOutputs) {
      const int64_t end = begin + kBackwardOutputs < outputs ? begin + kBackwardOutputs : outputs;
      decode(weight, steps, begin, end, column, columns, panel);
      for (int64_t turn = 0; turn < turns; ++turn) {
        const int64_t t = count * turn / turns, rows = count * (turn + 1) / turns - t;
        for (int64_t part = 0; part < kParts; ++part)
          kMultiply[rows - 1](job, steps, panel, part, t, begin / kBackwardUnit, end / kBackwardUnit);
      }
    }
    for (int64_t t = 0; t < count; ++t) write(job, panel, t, column, columns);
  }
}

}  // namespace quatro
