// What a block's extremes make of its scale and zero. Internal linkage: every instruction set has its own.
#ifndef QUATRO_BLOCK_SCALE_H
#define QUATRO_BLOCK_SCALE_H

#include "convert.h"
#include "kernels.h"

namespace {

struct Extremes {
  uint32_t magnitude;  // bits of the largest |x|: as an integer a NaN is above Inf, and Inf above every number
  float low, high;     // affine only
  bool finite() const { return magnitude < 0x7f800000u; }
};

// Writes the scale and returns what to divide by.
inline float write_symmetric(const quatro::QuantizeJob &job, int64_t block, const Extremes &found) {
  const float scale = float_of(found.magnitude) / job.full_scale;
  job.scales[block] = scale;
  return scale > quatro::kSmallestScale ? scale : quatro::kSmallestScale;
}

struct Affine {
  float low, scale;  // a position is that of (x - low) / scale; a scale of 0 means that all codes are 0
};

inline Affine write_affine(const quatro::QuantizeJob &job, int64_t block, const Extremes &found) {
  const float low = found.low + 0.0f, high = found.high + 0.0f;  // no negative zero
  const float scale = high / job.full_scale - low / job.full_scale;
  const bool constant = scale == 0.0f;
  job.scales[block] = !constant ? scale : low < 0.0f ? -low : low;
  job.zeros[block] = !constant ? -(low / scale) : low > 0.0f ? -1.0f : low < 0.0f ? 1.0f : 0.0f;
  return {low, scale};
}

// Scales are found for a batch of blocks before their codes are: codes wait for their scale, other blocks fill the wait.
constexpr int64_t kMostBatched = 64;

inline int64_t batch_of(int64_t block) {
  const int64_t fit = 2048 / block;  // weights that stay in the first cache
  return fit < 1 ? 1 : fit > kMostBatched ? kMostBatched : fit;
}

}  // namespace

#endif
