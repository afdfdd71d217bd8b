// The backward product sums over outputs, whose scales differ. So the weights of a unit of outputs, in a tile of inputs, share
// the largest magnitude that their scales allow, and a code's int16 step is its weight's share of that. Internal linkage.
#ifndef QUATRO_BACKWARD_STEPS_H
#define QUATRO_BACKWARD_STEPS_H

#include "integer_rows.h"

namespace quatro {
namespace {

constexpr float kSmallScale = 0x1p-60f, kUp = 0x1p64f;

inline float magnitude_of(float x) { return float_of(bits_of(x) & kMagnitudeMask); }

// What a column tile's codes mean. A tile is one block wide, or two of 32.
class BackwardSteps {
 public:
  // memory: backward_steps_floats
  BackwardSteps(const ProductJob &job, float *memory)
      : weight_(job.weight), units_(job.rows.units), low_(weight_.table[0]), high_(weight_.table[0]) {
    for (float value : weight_.table) {
      low_ = value < low_ ? value : low_;
      high_ = value > high_ ? value : high_;
    }
    const int64_t padded = units_ * kBackwardUnit;
    for (int i = 0; i < 2; ++i) factors_[i] = memory + i * padded, zeros_[i] = memory + (2 + i) * padded;
    full_ = memory + 4 * padded;
  }

  // Turns to the tile of `columns` inputs from `column`.
  void turn_to(int64_t column, int64_t columns) {
    const int64_t per_row = weight_.inputs / weight_.block, first = column / weight_.block;
    blocks_ = (columns + weight_.block - 1) / weight_.block;
    for (int64_t b = 0; b < blocks_; ++b) {
      copy(weight_.absmax + first + b, per_row, factors_[b]);
      if (weight_.zeros) copy(weight_.zeros + first + b, per_row, zeros_[b]);
    }
    for (int64_t u = 0; u < units_; ++u) share(u);
  }

  // What kBackwardFull steps are worth in unit u. NaN where scales are no numbers.
  float full(int64_t u) const { return full_[u]; }

  // Code c of output n, in the b-th 32 inputs of the tile, is clipped((table[c] - zero) * factor) steps.
  float factor(int64_t n, int64_t b) const { return factors_[b < blocks_ ? b : 0][n]; }
  float zero(int64_t n, int64_t b) const { return weight_.zeros ? zeros_[b < blocks_ ? b : 0][n] : 0.0f; }

 private:
  void copy(const float *source, int64_t stride, float *out) const {
    for (int64_t n = 0; n < weight_.outputs; ++n) out[n] = source[n * stride];
    for (int64_t n = weight_.outputs; n < units_ * kBackwardUnit; ++n) out[n] = 0.0f;
  }

  void share(int64_t u) {
    uint32_t largest = 0;
    for (int64_t b = 0; b < blocks_; ++b) {
      const uint32_t found = largest_weight(factors_[b] + u * kBackwardUnit, zeros_[b] + u * kBackwardUnit);
      largest = found > largest ? found : largest;
    }
    full_[u] = float_of(largest < kInfinite ? largest : 0x7fc00000u);
    const float up = full_[u] < kSmallScale ? kUp : 1.0f;
    const float steps = full_[u] > 0.0f ? kBackwardFull / (full_[u] * up) : 0.0f;  // also 0 for a NaN
    for (int64_t b = 0; b < blocks_; ++b)
      for (int64_t i = 0; i < kBackwardUnit; ++i) {
        float &factor = factors_[b][u * kBackwardUnit + i];
        factor = steps > 0.0f ? factor * up * steps : 0.0f;
      }
  }

  uint32_t largest_weight(const float *scales, const float *zeros) const {
    uint32_t largest = 0;
    for (int64_t i = 0; i < kBackwardUnit; ++i) {
      const float zero = weight_.zeros ? zeros[i] : 0.0f;
      const float low = magnitude_of(low_ - zero), high = magnitude_of(high_ - zero);
      const uint32_t found = bits_of((low > high ? low : high) * magnitude_of(scales[i])) & kMagnitudeMask;
      largest = found > largest ? found : largest;
    }
    return largest;
  }

  const Weight &weight_;
  int64_t units_, blocks_ = 1;
  float low_, high_;
  float *factors_[2], *zeros_[2], *full_;  // (outputs, in whole units), and one a unit
};

}  // namespace
}  // namespace quatro

#endif
