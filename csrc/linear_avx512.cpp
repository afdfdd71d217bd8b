// x W^T with AVX512: a vector holds pairs of adjacent weights of 16 outputs, and activations are broadcast to it pair by pair.
#include "forward_scales_avx512.h"
#include "integer_rows.h"
#include "prefetch.h"
#include "product_avx512.h"

namespace quatro {
namespace {

constexpr int64_t kFewRows = 8;    // up to here weights go from memory to the product without a stop
constexpr int64_t kMostRows = 12;  // rows of activations whose sums fit the registers, for 32 outputs

// The codes of 16 outputs.
class Codes {
 public:
  Codes(const Weight &weight, int64_t first) : bytes_(weight.inputs / 2) {
    const SixteenRows rows(first, weight.outputs, bytes_);
    for (int i = 0; i < 16; ++i) rows_[i] = weight.codes + rows.start[i];
  }

  // Inputs at .. at+63: vector j holds inputs 8j .. 8j+7 of all outputs, a dword each.
  void load(int64_t at, __m512i (&out)[8]) const {
    __m512i u[4], v[4];
    for (int r = 0; r < 4; ++r) {
      u[r] = two(rows_[r] + at / 2, rows_[4 + r] + at / 2);
      v[r] = two(rows_[8 + r] + at / 2, rows_[12 + r] + at / 2);
    }
    transpose(u);
    transpose(v);
    for (int j = 0; j < 4; ++j) {
      out[j] = _mm512_shuffle_i64x2(u[j], v[j], 0x88);
      out[4 + j] = _mm512_shuffle_i64x2(u[j], v[j], 0xdd);
    }
  }

  // Inputs at .. at+31.
  void load(int64_t at, __m512i (&out)[4]) const {
    for (int r = 0; r < 4; ++r)
      out[r] = four_times_16(rows_[r] + at / 2, rows_[4 + r] + at / 2, rows_[8 + r] + at / 2, rows_[12 + r] + at / 2);
    transpose(out);
  }

  // The same inputs of the outputs that come `outputs` later: their memory is asked for while these are computed.
  QUATRO_INLINE void prefetch(int64_t at, int64_t outputs) const {
    for (const uint8_t *row : rows_) ask_for(row + at / 2 + outputs * bytes_, 1);
  }

 private:
  static __m512i two(const uint8_t *low, const uint8_t *high) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(low));
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), _mm256_loadu_si256(reinterpret_cast<const __m256i *>(high)), 1);
  }

  int64_t bytes_;
  const uint8_t *rows_[16];
};

// A dword of 8 codes to pairs of steps: shifted by one of four amounts, its two words end with codes i and i + 4. A lookup reads
// 5 bits of a word, of which the fifth is whatever stands beside the nibble: so the table is there twice.
class Decoder {
 public:
  explicit Decoder(const int16_t *steps)
      : steps_(_mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(steps)))) {}

  template <int i>
  __m512i pair(__m512i codes) const {
    constexpr int kShift = i == 0 ? 4 : i == 1 ? 0 : i == 2 ? 12 : 8;
    return _mm512_permutexvar_epi16(kShift ? _mm512_srli_epi32(codes, kShift) : codes, steps_);
  }

 private:
  __m512i steps_;
};

// A thread's memory: 32 outputs at a time.
struct Panel {
  Panel(const ProductJob &job, void *memory) : per_row(job.weight.inputs / job.weight.block) {
    pairs = static_cast<int16_t *>(memory);
    scales = reinterpret_cast<float *>(pairs + kForwardInputs * kForwardOutputs);
    zeros = scales + per_row * kForwardOutputs;
    sums = zeros + per_row * kForwardOutputs;
  }
  int64_t per_row;  // scales
  int16_t *pairs;   // (kForwardInputs / 2, 32 outputs, 2)
  float *scales, *zeros;  // (per_row, 32); zeros in steps
  float *sums;            // (rows, 32)
};

// Scales of the groups of 32 outputs, one group after another.
class Scales {
 public:
  explicit Scales(const ProductJob &job) : job_(job), map_(job.weight.absmax ? kNoMap : job.weight.map) {}

  void fill(int64_t first, const Panel &panel) const {
    const Weight &weight = job_.weight;
    ask_for_scales(weight, first + kForwardOutputs, panel.per_row);
    for (int64_t half = 0; half < kForwardOutputs; half += 16) {
      const SixteenRows rows(first + half, weight.outputs, panel.per_row);
      if (weight.absmax)
        turn_plain(weight.absmax, rows, panel.per_row, 1.0f, panel.scales + half, kForwardOutputs);
      else
        turn_nested(weight, map_, rows, panel.per_row, panel.scales + half, kForwardOutputs);
      if (weight.zeros)
        turn_plain(weight.zeros, rows, panel.per_row, job_.steps_per_one, panel.zeros + half, kForwardOutputs);
    }
  }

 private:
  static constexpr float kNoMap[256] = {};
  const ProductJob &job_;
  FloatOfByte map_;
};

// What the integer sums of a unit come to, for 16 outputs from `lane` of the panel.
class UnitScales {
 public:
  UnitScales(const ProductJob &job, const Panel &panel, int64_t u, int64_t block, int64_t lane)
      : x_scales_(job.rows.scales + u * job.rows.count), x_sums_(job.rows.sums ? job.rows.sums + u * job.rows.count : nullptr),
        scales_(_mm512_loadu_ps(panel.scales + block * kForwardOutputs + lane)),
        zeros_(_mm512_loadu_ps(panel.zeros + block * kForwardOutputs + lane)) {}

  // total, and what row t adds
  __m512 add(int64_t t, __m512i sum, __m512 total) const {
    __m512 dot = _mm512_cvtepi32_ps(sum);
    if (x_sums_) dot = _mm512_fnmadd_ps(zeros_, _mm512_set1_ps(x_sums_[t]), dot);
    return _mm512_fmadd_ps(dot, _mm512_mul_ps(scales_, _mm512_set1_ps(x_scales_[t])), total);
  }

 private:
  const float *x_scales_, *x_sums_;
  __m512 scales_, zeros_;
};

void write(const ProductJob &job, int64_t t, int64_t output, __m512 total) {
  if (output >= job.weight.outputs) return;
  const __mmask16 mask = first_of_16(job.weight.outputs - output);
  __m512 y = _mm512_mul_ps(_mm512_mul_ps(total, _mm512_set1_ps(job.unit_value)), _mm512_set1_ps(job.rows.powers[t]));
  if (job.bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, job.bias + output));
  store(job.out, job.dtype, t * job.weight.outputs + output, mask, y);
}

// Up to kFewRows rows: decode 16 outputs and multiply at once.
template <int tokens, int unit>
void few(const ProductJob &job, int64_t first, const Panel &panel) {
  constexpr int kChains = tokens <= 1 ? 4 : tokens <= 4 ? 2 : 1;  // sums of a row under way at a time
  const Decoder decoder(job.steps);
  const int64_t units_of_block = job.weight.block / unit;
  for (int64_t lane = 0; lane < kForwardOutputs; lane += 16) {
    const Codes codes(job.weight, first + lane);
    __m512 total[tokens];
    unrolled<tokens>([&](auto t) QUATRO_INLINE { total[t] = _mm512_setzero_ps(); });
    for (int64_t block = 0, u = 0; block < panel.per_row; ++block)
      for (const int64_t end = u + units_of_block; u < end; ++u) {
        __m512i eights[unit / 8], sums[tokens][kChains];
        codes.load(u * unit, eights);
        if (u * unit % 128 == 0) codes.prefetch(u * unit, 16);
        unrolled<tokens * kChains>([&](auto i) QUATRO_INLINE { sums[i / kChains][i % kChains] = _mm512_setzero_si512(); });
        const int16_t *x = job.rows.values + u * tokens * unit;
        unrolled<unit / 2>([&](auto p) QUATRO_INLINE {
          const __m512i pair = decoder.pair<p % 4>(eights[p / 4]);
          unrolled<tokens>([&](auto t) QUATRO_INLINE {
            sums[t][p % kChains] = add_pairs(sums[t][p % kChains], pair, broadcast_pair(x + t * unit + 2 * p));
          });
        });
        const UnitScales scales(job, panel, u, block, lane);
        unrolled<tokens>([&](auto t) QUATRO_INLINE {
          unrolled<kChains - 1>([&](auto c) QUATRO_INLINE { sums[t][0] = _mm512_add_epi32(sums[t][0], sums[t][c + 1]); });
          total[t] = scales.add(t, sums[t][0], total[t]);
        });
      }
    unrolled<tokens>([&](auto t) QUATRO_INLINE { write(job, t, first + lane, total[t]); });
  }
}

// Decodes inputs [begin, end) of 32 outputs into the panel.
template <int unit>
void decode(const ProductJob &job, const Codes (&halves)[2], int64_t begin, int64_t end, const Panel &panel) {
  const Decoder decoder(job.steps);
  __m512i *out = reinterpret_cast<__m512i *>(panel.pairs);
  for (int64_t at = begin; at < end; at += unit, out += unit)
    for (int half = 0; half < 2; ++half) {
      __m512i eights[unit / 8];
      halves[half].load(at, eights);
      if (at % 128 == 0) halves[half].prefetch(at, kForwardOutputs);
      unrolled<unit / 2>([&](auto p) QUATRO_INLINE {
        _mm512_storeu_si512(out + 2 * p + half, decoder.pair<p % 4>(eights[p / 4]));
      });
    }
}

// Rows [t, t + tokens) times the decoded inputs, units [begin, end).
template <int unit, int tokens>
void multiply(const ProductJob &job, const Panel &panel, int64_t t, int64_t begin, int64_t end) {
  const __m512i *pairs = reinterpret_cast<const __m512i *>(panel.pairs);
  for (int64_t u = begin; u < end; ++u) {
    const int16_t *x = job.rows.values + (u * job.rows.count + t) * unit;
    __m512i sums[tokens][2];
    unrolled<tokens>([&](auto i) QUATRO_INLINE { sums[i][0] = sums[i][1] = _mm512_setzero_si512(); });
    for (int p = 0; p < unit / 2; ++p, pairs += 2, x += 2) {
      const __m512i a = _mm512_loadu_si512(pairs), b = _mm512_loadu_si512(pairs + 1);
      unrolled<tokens>([&](auto i) QUATRO_INLINE {
        const __m512i both = broadcast_pair(x + i * unit);
        sums[i][0] = add_pairs(sums[i][0], a, both);
        sums[i][1] = add_pairs(sums[i][1], b, both);
      });
    }
    const int64_t block = u * unit / job.weight.block;
    const UnitScales low(job, panel, u, block, 0), high(job, panel, u, block, 16);
    unrolled<tokens>([&](auto i) QUATRO_INLINE {
      float *total = panel.sums + (t + i) * kForwardOutputs;
      _mm512_storeu_ps(total, low.add(t + i, sums[i][0], _mm512_loadu_ps(total)));
      _mm512_storeu_ps(total + 16, high.add(t + i, sums[i][1], _mm512_loadu_ps(total + 16)));
    });
  }
}

using Multiply = void (*)(const ProductJob &, const Panel &, int64_t, int64_t, int64_t);
template <int unit>
constexpr Multiply kMultiply[kMostRows] = {multiply<unit, 1>, multiply<unit, 2>,  multiply<unit, 3>,  multiply<unit, 4>,
                                           multiply<unit, 5>, multiply<unit, 6>,  multiply<unit, 7>,  multiply<unit, 8>,
                                           multiply<unit, 9>, multiply<unit, 10>, multiply<unit, 11>, multiply<unit, 12>};

template <int unit>
void many(const ProductJob &job, int64_t first, const Panel &panel) {
  const int64_t count = job.rows.count, inputs = job.weight.inputs, turns = (count + kMostRows - 1) / kMostRows;
  const Codes halves[2] = {{job.weight, first}, {job.weight, first + 16}};
  for (int64_t i = 0; i < count * kForwardOutputs; i += 16) _mm512_storeu_ps(panel.sums + i, _mm512_setzero_ps());
  for (int64_t begin = 0; begin < inputs; begin += kForwardInputs) {
    const int64_t end = begin + kForwardInputs < inputs ? begin + kForwardInputs : inputs;
    decode<unit>(job, halves, begin, end, panel);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t t = count * turn / turns, rows = count * (turn + 1) / turns - t;
      kMultiply<unit>[rows - 1](job, panel, t, begin / unit, end / unit);
    }
  }
  for (int64_t t = 0; t < count; ++t)
    for (int64_t half = 0; half < kForwardOutputs; half += 16)
      write(job, t, first + half, _mm512_loadu_ps(panel.sums + t * kForwardOutputs + half));
}

template <int unit>
void linear(const ProductJob &job, int64_t first, int64_t last, void *memory) {
  constexpr decltype(&few<1, unit>) kFew[kFewRows] = {few<1, unit>, few<2, unit>, few<3, unit>, few<4, unit>,
                                                       few<5, unit>, few<6, unit>, few<7, unit>, few<8, unit>};
  const Panel panel(job, memory);
  const Scales scales(job);
  for (int64_t group = first; group < last; ++group) {
    scales.fill(group * kForwardOutputs, panel);
    if (job.rows.count <= kFewRows)
      kFew[job.rows.count - 1](job, group * kForwardOutputs, panel);
    else
      many<unit>(job, group * kForwardOutputs, panel);
  }
}

}  // namespace

void integer_rows_avx512(const RowsJob &job, int64_t first, int64_t last) { integer_rows<WideLoad>(job, first, last); }

void linear_avx512(const ProductJob &job, int64_t first, int64_t last, void *memory) {
  return job.rows.unit == 64 ? linear<64>(job, first, last, memory) : linear<32>(job, first, last, memory);
}

}  // namespace quatro
