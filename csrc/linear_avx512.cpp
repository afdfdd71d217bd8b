// x W^T with AVX512: a vector holds pairs of adjacent weights of 16 outputs, and activations are broadcast to it pair by pair.
#include "integer_rows.h"
#include "product_avx512.h"

namespace quatro {
namespace {

constexpr int64_t kFewRows = 8;    // up to here weights go from memory to the product without a stop
constexpr int64_t kMostRows = 12;  // rows of activations whose sums fit the registers, for 32 outputs

// The codes of 16 outputs; past the end of the matrix the last output stands in.
class Codes {
 public:
  Codes(const Weight &weight, int64_t first) : bytes_(weight.inputs / 2) {
    for (int64_t r = 0; r < 16; ++r)
      rows_[r] = weight.codes + (first + r < weight.outputs ? first + r : weight.outputs - 1) * bytes_;
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
      out[r] = four(rows_[r] + at / 2, rows_[4 + r] + at / 2, rows_[8 + r] + at / 2, rows_[12 + r] + at / 2);
    transpose(out);
  }

  // The same inputs of the 16 outputs after these: their memory is asked for while these are computed.
  void prefetch_next(int64_t at) const {
    for (const uint8_t *row : rows_) _mm_prefetch(reinterpret_cast<const char *>(row + at / 2 + 16 * bytes_), _MM_HINT_T1);
  }

 private:
  static __m512i two(const uint8_t *low, const uint8_t *high) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(low));
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), _mm256_loadu_si256(reinterpret_cast<const __m256i *>(high)), 1);
  }
  static __m128i sixteen(const uint8_t *codes) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes)); }
  static __m512i four(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d) {
    const __m512i ab = _mm512_inserti32x4(_mm512_castsi128_si512(sixteen(a)), sixteen(b), 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(ab, sixteen(c), 2), sixteen(d), 3);
  }
  static void transpose(__m512i (&r)[4]) {  // 4 x 4 dwords in every 128 bits
    const __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
    const __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm512_unpacklo_epi64(a, c), r[1] = _mm512_unpackhi_epi64(a, c);
    r[2] = _mm512_unpacklo_epi64(b, d), r[3] = _mm512_unpackhi_epi64(b, d);
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

// 256 floats, looked up 16 at a time: 32 of them in two registers by the low five bits, then halves by the upper three.
class Map {
 public:
  explicit Map(const float *map) : map_(map) {}

  __m512 operator()(__m512i codes) const {
    const __mmask16 bit5 = _mm512_test_epi32_mask(codes, _mm512_set1_epi32(32)),
                    bit6 = _mm512_test_epi32_mask(codes, _mm512_set1_epi32(64)),
                    bit7 = _mm512_test_epi32_mask(codes, _mm512_set1_epi32(128));
    const __m512 a = _mm512_mask_blend_ps(bit5, of32(codes, 0), of32(codes, 32)),
                 b = _mm512_mask_blend_ps(bit5, of32(codes, 64), of32(codes, 96)),
                 c = _mm512_mask_blend_ps(bit5, of32(codes, 128), of32(codes, 160)),
                 d = _mm512_mask_blend_ps(bit5, of32(codes, 192), of32(codes, 224));
    return _mm512_mask_blend_ps(bit7, _mm512_mask_blend_ps(bit6, a, b), _mm512_mask_blend_ps(bit6, c, d));
  }

 private:
  __m512 of32(__m512i codes, int64_t at) const {
    return _mm512_permutex2var_ps(_mm512_loadu_ps(map_ + at), codes, _mm512_loadu_ps(map_ + at + 16));
  }
  const float *map_;
};

void transpose(__m512 (&r)[16]) {  // 16 x 16 floats
  __m512 s[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
    const __m512 c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
    s[i] = _mm512_shuffle_ps(a, c, 0x44), s[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    s[i + 2] = _mm512_shuffle_ps(b, d, 0x44), s[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(s[i], s[4 + i], 0x88), b = _mm512_shuffle_f32x4(s[i], s[4 + i], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(s[8 + i], s[12 + i], 0x88), d = _mm512_shuffle_f32x4(s[8 + i], s[12 + i], 0xdd);
    r[i] = _mm512_shuffle_f32x4(a, c, 0x88), r[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88), r[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

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

// The 16 scales of one output that begin at `at`; a mask says how many there are.
class Scales {
 public:
  explicit Scales(const Weight &weight) : weight_(weight), map_(weight.map) {}

  __m512 operator()(int64_t at, __mmask16 mask) const {
    if (weight_.absmax) return _mm512_maskz_loadu_ps(mask, weight_.absmax + at);
    const __m512 values = map_(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, weight_.nested + at)));
    const int64_t group = at / weight_.group, left = (group + 1) * weight_.group - at;
    __m512 absmax = _mm512_set1_ps(weight_.group_absmax[group]);
    const auto beyond = static_cast<__mmask16>(mask & ~first_of_16(left));
    if (beyond) absmax = _mm512_mask_blend_ps(beyond, absmax, _mm512_set1_ps(weight_.group_absmax[group + 1]));
    return _mm512_add_ps(_mm512_mul_ps(values, absmax), _mm512_set1_ps(weight_.mean));
  }

 private:
  const Weight &weight_;
  Map map_;
};

// Numbers of 32 outputs from `first`, `per_row` of each, to (per_row, 32).
template <class Numbers>
void fill(const Weight &weight, int64_t first, int64_t per_row, const Numbers &numbers, float *out) {
  for (int64_t half = 0; half < kForwardOutputs; half += 16)
    for (int64_t at = 0; at < per_row; at += 16) {
      __m512 r[16];
      const __mmask16 mask = first_of_16(per_row - at);
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t row = first + half + i < weight.outputs ? first + half + i : weight.outputs - 1;
        r[i] = numbers(row * per_row + at, mask);
      }
      transpose(r);
      for (int64_t i = 0; i < 16 && at + i < per_row; ++i) _mm512_storeu_ps(out + (at + i) * kForwardOutputs + half, r[i]);
    }
}

void fill_scales(const ProductJob &job, int64_t first, const Panel &panel) {
  fill(job.weight, first, panel.per_row, Scales(job.weight), panel.scales);
  if (!job.weight.zeros) return;
  const __m512 steps = _mm512_set1_ps(job.steps_per_one);
  const auto zeros = [&](int64_t at, __mmask16 mask) {
    return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, job.weight.zeros + at), steps);
  };
  fill(job.weight, first, panel.per_row, zeros, panel.zeros);
}

// What the integer sums of unit u come to, for 32 outputs.
class UnitScales {
 public:
  UnitScales(const ProductJob &job, const Panel &panel, int64_t u)
      : x_scales_(job.rows.scales + u * job.rows.count), x_sums_(job.rows.sums ? job.rows.sums + u * job.rows.count : nullptr) {
    const int64_t at = u * job.rows.unit / job.weight.block * kForwardOutputs;
    for (int half = 0; half < 2; ++half) {
      scales_[half] = _mm512_loadu_ps(panel.scales + at + 16 * half);
      zeros_[half] = _mm512_loadu_ps(panel.zeros + at + 16 * half);
    }
  }
  // total, and what row t adds to outputs 16 * half .. 16 * half + 15
  __m512 add(int64_t t, int half, __m512i sum, __m512 total) const {
    __m512 dot = _mm512_cvtepi32_ps(sum);
    if (x_sums_) dot = _mm512_fnmadd_ps(zeros_[half], _mm512_set1_ps(x_sums_[t]), dot);
    return _mm512_fmadd_ps(dot, _mm512_mul_ps(scales_[half], _mm512_set1_ps(x_scales_[t])), total);
  }

 private:
  const float *x_scales_, *x_sums_;
  __m512 scales_[2], zeros_[2];
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
  constexpr int kVectors = unit / 8, kChains = tokens <= 2 ? 4 : tokens <= 4 ? 2 : 1;
  const Decoder decoder(job.steps);
  for (int64_t half = 0; half < kForwardOutputs; half += 16) {
    const Codes codes(job.weight, first + half);
    __m512 total[tokens];
    for (int t = 0; t < tokens; ++t) total[t] = _mm512_setzero_ps();
    for (int64_t u = 0; u < job.rows.units; ++u) {
      __m512i eights[kVectors], sums[tokens][kChains];
      codes.load(u * unit, eights);
      if (u * unit % 128 == 0) codes.prefetch_next(u * unit);
      unrolled<tokens * kChains>([&](auto i) QUATRO_INLINE { sums[i / kChains][i % kChains] = _mm512_setzero_si512(); });
      const int16_t *x = job.rows.values + u * tokens * unit;
      unrolled<unit / 2>([&](auto p) QUATRO_INLINE {
        const __m512i pair = decoder.pair<p % 4>(eights[p / 4]);
        unrolled<tokens>([&](auto t) QUATRO_INLINE {
          sums[t][p % kChains] = add_pairs(sums[t][p % kChains], pair, broadcast_pair(x + t * unit + 2 * p));
        });
      });
      const UnitScales scales(job, panel, u);
      unrolled<tokens>([&](auto t) QUATRO_INLINE {
        unrolled<kChains - 1>([&](auto c) QUATRO_INLINE { sums[t][0] = _mm512_add_epi32(sums[t][0], sums[t][c + 1]); });
        total[t] = scales.add(t, half / 16, sums[t][0], total[t]);
      });
    }
    for (int t = 0; t < tokens; ++t) write(job, t, first + half, total[t]);
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
    const UnitScales scales(job, panel, u);
    unrolled<tokens>([&](auto i) QUATRO_INLINE {
      float *total = panel.sums + (t + i) * kForwardOutputs;
      _mm512_storeu_ps(total, scales.add(t + i, 0, sums[i][0], _mm512_loadu_ps(total)));
      _mm512_storeu_ps(total + 16, scales.add(t + i, 1, sums[i][1], _mm512_loadu_ps(total + 16)));
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
  for (int64_t group = first; group < last; ++group) {
    fill_scales(job, group * kForwardOutputs, panel);
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
