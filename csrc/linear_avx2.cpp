// x W^T with AVX2. A vector holds 4 weights of each of 4 outputs: a quad of activations is broadcast to it, and what the two
// pairs of an output come to is added when a unit ends.
#include <algorithm>

#include "integer_rows.h"
#include "prefetch.h"
#include "product_avx2.h"

namespace quatro {
namespace {

constexpr int64_t kLanes = 8;     // outputs at a time
constexpr int64_t kFewRows = 4;   // up to here weights go from memory to the product without a stop
constexpr int64_t kMostRows = 4;  // rows of activations whose sums fit the registers

inline __m256i broadcast_quad(const int16_t *quad) {
  int64_t four;
  __builtin_memcpy(&four, quad, sizeof four);
  return _mm256_set1_epi64x(four);
}

// The codes of 8 outputs; past the end of the matrix the last output stands in.
class Codes {
 public:
  Codes(const Weight &weight, int64_t first) : bytes_(weight.inputs / 2) {
    for (int64_t r = 0; r < kLanes; ++r)
      rows_[r] = weight.codes + (first + r < weight.outputs ? first + r : weight.outputs - 1) * bytes_;
  }

  // Inputs at .. at+63: vector j holds inputs 8j .. 8j+7 of all outputs, a dword each.
  void load(int64_t at, __m256i (&out)[8]) const {
    __m256i u[4], v[4];
    for (int r = 0; r < 4; ++r) {
      u[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows_[r] + at / 2));
      v[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows_[4 + r] + at / 2));
    }
    transpose(u);
    transpose(v);
    for (int j = 0; j < 4; ++j) {
      out[j] = _mm256_permute2x128_si256(u[j], v[j], 0x20);
      out[4 + j] = _mm256_permute2x128_si256(u[j], v[j], 0x31);
    }
  }

  // Inputs at .. at+31.
  void load(int64_t at, __m256i (&out)[4]) const {
    for (int r = 0; r < 4; ++r) {
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows_[r] + at / 2));
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows_[4 + r] + at / 2));
      out[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    transpose(out);
  }

  // The same inputs of the outputs after these: their memory is asked for while these are computed.
  QUATRO_INLINE void prefetch_next(int64_t at) const {
    for (const uint8_t *row : rows_) ask_for(row + at / 2 + kLanes * bytes_, 1);
  }

 private:
  static void transpose(__m256i (&r)[4]) {  // 4 x 4 dwords in each half
    const __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
    const __m256i c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm256_unpacklo_epi64(a, c), r[1] = _mm256_unpackhi_epi64(a, c);
    r[2] = _mm256_unpacklo_epi64(b, d), r[3] = _mm256_unpackhi_epi64(b, d);
  }

  int64_t bytes_;
  const uint8_t *rows_[kLanes];
};

// A thread's memory: 32 outputs at a time.
struct Panel {
  Panel(const ProductJob &job, void *memory) : per_row(job.weight.inputs / job.weight.block) {
    steps = static_cast<__m256i *>(memory);
    scales = reinterpret_cast<float *>(steps + kForwardInputs * kForwardOutputs / 16);
    zeros = scales + per_row * kForwardOutputs;
    sums = zeros + per_row * kForwardOutputs;
  }
  int64_t per_row;        // scales
  __m256i *steps;         // (32 outputs / 8, kForwardInputs / 8, 4)
  float *scales, *zeros;  // (per_row, 32); zeros in steps
  float *sums;            // (rows, 32)
};

// The scales and zeros of a group of 32 outputs, turned so that a vector holds those of 8; past the last output it stands in.
class Turn {
 public:
  Turn(const ProductJob &job, int64_t first, const Panel &panel) : job_(job), weight_(job.weight), per_row_(panel.per_row) {
    for (int64_t i = 0; i < kForwardOutputs; ++i)
      rows_[i] = (first + i < weight_.outputs ? first + i : weight_.outputs - 1) * per_row_;
    ask_for_scales(weight_, first + kForwardOutputs, per_row_);
    if (weight_.absmax) {
      turn(weight_.absmax, 1.0f, panel.scales);
    } else {
      look_up(panel.scales);
      for (int64_t lane = 0; lane < kForwardOutputs; lane += kLanes) unnest(lane, panel.scales + lane);
    }
    if (weight_.zeros) turn(weight_.zeros, job.steps_per_one, panel.zeros);
  }

 private:
  void turn(const float *numbers, float factor, float *out) const {
    for (int64_t i = 0; i < kForwardOutputs; ++i)
      for (int64_t at = 0; at < per_row_; ++at) out[at * kForwardOutputs + i] = numbers[rows_[i] + at] * factor;
  }

  void look_up(float *out) const {  // one by one: faster than gathering
    for (int64_t i = 0; i < kForwardOutputs; ++i)
      for (int64_t at = 0; at < per_row_; ++at)
        out[at * kForwardOutputs + i] = weight_.map[weight_.nested[rows_[i] + at]];
  }

  // map[code] of 8 outputs to map[code] * absmax of its group + mean; as many at once as no output meets a new group.
  void unnest(int64_t lane, float *values) const {
    const __m256 mean = _mm256_set1_ps(weight_.mean);
    for (int64_t at = 0; at < per_row_;) {
      alignas(32) float absmax[kLanes];
      int64_t end = per_row_;
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t place = rows_[lane + i] + at, group = place / weight_.group;
        absmax[i] = weight_.group_absmax[group];
        end = std::min(end, at + (group + 1) * weight_.group - place);
      }
      for (const __m256 factors = _mm256_load_ps(absmax); at < end; ++at) {
        float *eight = values + at * kForwardOutputs;
        _mm256_storeu_ps(eight, _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(eight), factors), mean));
      }
    }
  }

  const ProductJob &job_;
  const Weight &weight_;
  int64_t per_row_, rows_[kForwardOutputs];
};

// What the integer sums of unit u come to, for 8 outputs of the panel from `lane`.
class UnitScales {
 public:
  UnitScales(const ProductJob &job, const Panel &panel, int64_t u, int64_t block, int64_t lane)
      : x_scales_(job.rows.scales + u * job.rows.count), x_sums_(job.rows.sums ? job.rows.sums + u * job.rows.count : nullptr) {
    const int64_t at = block * kForwardOutputs + lane;
    scales_ = _mm256_loadu_ps(panel.scales + at);
    zeros_ = _mm256_loadu_ps(panel.zeros + at);
  }
  // total, and what row t adds; sums as they stand: two of each output, the outputs 0 1 4 5 and 2 3 6 7
  __m256 add(int64_t t, __m256i first, __m256i second, __m256 total) const {
    __m256 dot = _mm256_cvtepi32_ps(_mm256_hadd_epi32(first, second));
    if (x_sums_) dot = _mm256_fnmadd_ps(zeros_, _mm256_set1_ps(x_sums_[t]), dot);
    return _mm256_fmadd_ps(dot, _mm256_mul_ps(scales_, _mm256_set1_ps(x_scales_[t])), total);
  }

 private:
  const float *x_scales_, *x_sums_;
  __m256 scales_, zeros_;
};

__m256 some(const float *numbers, int64_t count) {  // the first 8, or fewer and zeros
  const __m256i ramp = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(numbers, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::min<int64_t>(count, 8))), ramp));
}

void write(const ProductJob &job, int64_t t, int64_t output, __m256 total) {
  const int64_t count = job.weight.outputs - output;
  if (count <= 0) return;
  __m256 y = _mm256_mul_ps(_mm256_mul_ps(total, _mm256_set1_ps(job.unit_value)), _mm256_set1_ps(job.rows.powers[t]));
  if (job.bias) y = _mm256_add_ps(y, some(job.bias + output, count));
  store(job.out, job.dtype, t * job.weight.outputs + output, count, y);
}

// Up to kFewRows rows: decode 8 outputs and multiply at once.
template <int unit, int tokens>
void few(const ProductJob &job, int64_t first, const Panel &panel) {
  const __m256i table = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(job.steps));
  const ByteTables tables(table, table);
  const int64_t units_of_block = job.weight.block / unit;
  for (int64_t lane = 0; lane < kForwardOutputs && first + lane < job.weight.outputs; lane += kLanes) {
    const Codes codes(job.weight, first + lane);
    __m256 total[tokens];
    unrolled<tokens>([&](auto t) QUATRO_INLINE { total[t] = _mm256_setzero_ps(); });
    for (int64_t block = 0, u = 0; block < panel.per_row; ++block)
      for (const int64_t end = u + units_of_block; u < end; ++u) {
        __m256i eights[unit / 8], sums[tokens][2];
        codes.load(u * unit, eights);
        if (u * unit % 128 == 0) codes.prefetch_next(u * unit);
        unrolled<tokens>([&](auto t) QUATRO_INLINE { sums[t][0] = sums[t][1] = _mm256_setzero_si256(); });
        const int16_t *x = job.rows.values + u * tokens * unit;
        unrolled<unit / 8>([&](auto j) QUATRO_INLINE {
          const Steps even(tables, high_nibbles(eights[j])), odd(tables, low_nibbles(eights[j]));
          unrolled<tokens>([&](auto t) QUATRO_INLINE {
            const __m256i evens = broadcast_quad(x + t * unit + 8 * j), odds = broadcast_quad(x + t * unit + 8 * j + 4);
            sums[t][0] = add_pairs(add_pairs(sums[t][0], even.first, evens), odd.first, odds);
            sums[t][1] = add_pairs(add_pairs(sums[t][1], even.second, evens), odd.second, odds);
          });
        });
        const UnitScales scales(job, panel, u, block, lane);
        unrolled<tokens>([&](auto t) QUATRO_INLINE { total[t] = scales.add(t, sums[t][0], sums[t][1], total[t]); });
      }
    unrolled<tokens>([&](auto t) QUATRO_INLINE { write(job, t, first + lane, total[t]); });
  }
}

// Decodes inputs [begin, end) of 32 outputs into the panel.
template <int unit>
void decode(const ProductJob &job, const Codes (&codes)[4], int64_t begin, int64_t end, const Panel &panel) {
  const __m256i table = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(job.steps));
  const ByteTables tables(table, table);
  for (int lane = 0; lane < 4; ++lane) {
    __m256i *out = panel.steps + lane * (kForwardInputs / 2);
    for (int64_t at = begin; at < end; at += unit) {
      __m256i eights[unit / 8];
      codes[lane].load(at, eights);
      for (int j = 0; j < unit / 8; ++j, out += 4) {
        const Steps even(tables, high_nibbles(eights[j])), odd(tables, low_nibbles(eights[j]));
        _mm256_storeu_si256(out, even.first), _mm256_storeu_si256(out + 1, even.second);
        _mm256_storeu_si256(out + 2, odd.first), _mm256_storeu_si256(out + 3, odd.second);
      }
    }
  }
}

// Rows [t, t + tokens) times the decoded inputs of 8 outputs from `lane`, units [begin, end).
template <int unit, int tokens>
void multiply(const ProductJob &job, const Panel &panel, int64_t lane, int64_t t, int64_t begin, int64_t end) {
  const __m256i *w = panel.steps + lane / kLanes * (kForwardInputs / 2);
  for (int64_t u = begin; u < end; ++u) {
    const int16_t *x = job.rows.values + (u * job.rows.count + t) * unit;
    __m256i sums[tokens][2];
    unrolled<tokens>([&](auto i) QUATRO_INLINE { sums[i][0] = sums[i][1] = _mm256_setzero_si256(); });
    for (int quad = 0; quad < unit / 4; ++quad, w += 2, x += 4) {
      const __m256i first = _mm256_loadu_si256(w), second = _mm256_loadu_si256(w + 1);
      unrolled<tokens>([&](auto i) QUATRO_INLINE {
        const __m256i four = broadcast_quad(x + i * unit);
        sums[i][0] = add_pairs(sums[i][0], first, four);
        sums[i][1] = add_pairs(sums[i][1], second, four);
      });
    }
    const UnitScales scales(job, panel, u, u * unit / job.weight.block, lane);
    unrolled<tokens>([&](auto i) QUATRO_INLINE {
      float *total = panel.sums + (t + i) * kForwardOutputs + lane;
      _mm256_storeu_ps(total, scales.add(t + i, sums[i][0], sums[i][1], _mm256_loadu_ps(total)));
    });
  }
}

using Multiply = void (*)(const ProductJob &, const Panel &, int64_t, int64_t, int64_t, int64_t);
template <int unit>
constexpr Multiply kMultiply[kMostRows] = {multiply<unit, 1>, multiply<unit, 2>, multiply<unit, 3>, multiply<unit, 4>};

template <int unit>
void many(const ProductJob &job, int64_t first, const Panel &panel) {
  const int64_t count = job.rows.count, inputs = job.weight.inputs, turns = (count + kMostRows - 1) / kMostRows;
  const Codes codes[4] = {{job.weight, first}, {job.weight, first + 8}, {job.weight, first + 16}, {job.weight, first + 24}};
  for (int64_t i = 0; i < count * kForwardOutputs; i += 8) _mm256_storeu_ps(panel.sums + i, _mm256_setzero_ps());
  for (int64_t begin = 0; begin < inputs; begin += kForwardInputs) {
    const int64_t end = begin + kForwardInputs < inputs ? begin + kForwardInputs : inputs;
    decode<unit>(job, codes, begin, end, panel);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t t = count * turn / turns, rows = count * (turn + 1) / turns - t;
      for (int64_t lane = 0; lane < kForwardOutputs; lane += kLanes)
        kMultiply<unit>[rows - 1](job, panel, lane, t, begin / unit, end / unit);
    }
  }
  for (int64_t t = 0; t < count; ++t)
    for (int64_t lane = 0; lane < kForwardOutputs; lane += kLanes)
      write(job, t, first + lane, _mm256_loadu_ps(panel.sums + t * kForwardOutputs + lane));
}

template <int unit>
void linear(const ProductJob &job, int64_t first, int64_t last, void *memory) {
  constexpr decltype(&few<unit, 1>) kFew[kFewRows] = {few<unit, 1>, few<unit, 2>, few<unit, 3>, few<unit, 4>};
  const Panel panel(job, memory);
  for (int64_t group = first; group < last; ++group) {
    Turn(job, group * kForwardOutputs, panel);
    if (job.rows.count <= kFewRows)
      kFew[job.rows.count - 1](job, group * kForwardOutputs, panel);
    else
      many<unit>(job, group * kForwardOutputs, panel);
  }
}

}  // namespace

void integer_rows_avx2(const RowsJob &job, int64_t first, int64_t last) { integer_rows<HalfWideLoad>(job, first, last); }

void linear_avx2(const ProductJob &job, int64_t first, int64_t last, void *memory) {
  return job.rows.unit == 64 ? linear<64>(job, first, last, memory) : linear<32>(job, first, last, memory);
}

}  // namespace quatro
