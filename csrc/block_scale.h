// What the extremes of blocks make of their scales and zeros. Internal linkage: every instruction set has its own.
#ifndef QUATRO_BLOCK_SCALE_H
#define QUATRO_BLOCK_SCALE_H

#include "convert.h"
#include "kernels.h"

namespace {

constexpr uint32_t kInfinityBits = 0x7f800000u;

// Scales are found for a batch of blocks before their codes are: codes wait for their scale, other blocks fill the wait.
constexpr int64_t kMostBatched = 64;

inline int64_t batch_of(int64_t block) {
  const int64_t fit = 2048 / block;  // weights that stay in the first cache
  return fit < 1 ? 1 : fit > kMostBatched ? kMostBatched : fit;
}

inline float divisor_of(float scale) { return scale > quatro::kSmallestScale ? scale : quatro::kSmallestScale; }

// Writes the scales of blocks [first, first + count), and to `inverses` what their weights are multiplied by. magnitudes are
// the bits of each block's largest |x|: as integers a NaN is above Inf, and Inf above every number.
// Returns how many blocks come before the first that is not finite.
inline int64_t write_scales(const quatro::QuantizeJob &job, int64_t first, const uint32_t *magnitudes, int64_t count,
                            float *__restrict inverses) {
  float *__restrict scales = job.scales + first;
  const float full_scale = job.full_scale;
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float scale = float_of(magnitudes[i]) / full_scale;
    scales[i] = scale;
    inverses[i] = 1.0f / divisor_of(scale);
    largest = magnitudes[i] > largest ? magnitudes[i] : largest;
  }
  if (largest < kInfinityBits) return count;
  int64_t good = 0;
  while (magnitudes[good] < kInfinityBits) ++good;
  return good;
}

struct Extremes {
  uint32_t magnitude;  // here only whether it is below kInfinityBits
  float low, high;
};

struct Affine {
  float low, scale;  // a position is that of (x - low) / scale; a scale of 0 means that all codes are 0
};

// The same with zeros: value = scale * (table - zero).
inline int64_t write_scales(const quatro::QuantizeJob &job, int64_t first, const Extremes *found, int64_t count,
                            Affine *affine) {
  for (int64_t i = 0; i < count; ++i) {
    if (found[i].magnitude >= kInfinityBits) return i;
    const float low = found[i].low + 0.0f, high = found[i].high + 0.0f;  // no negative zero
    const float scale = high / job.full_scale - low / job.full_scale;
    const bool constant = scale == 0.0f;
    job.scales[first + i] = !constant ? scale : low < 0.0f ? -low : low;
    job.zeros[first + i] = !constant ? -(low / scale) : low > 0.0f ? -1.0f : low < 0.0f ? 1.0f : 0.0f;
    affine[i] = {low, scale};
  }
  return count;
}

}  // namespace

#endif
