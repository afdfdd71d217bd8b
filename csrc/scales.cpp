// Double quantization of the scales, one at a time: the twin of the SIMD files and the path of the ragged last group.
#include <algorithm>

#include "convert.h"
#include "kernels.h"

namespace quatro {
namespace {

constexpr int kLanes = 256;

uint8_t position_of(float x, const float *thresholds) {
  int found = 0;
  for (int bit = 128; bit; bit >>= 1) found += x > thresholds[found + bit - 1] ? bit : 0;
  return static_cast<uint8_t>(found);
}

}  // namespace

// Lane j sums elements j, j + kLanes, ... in order, then the lanes are added in order. On one thread: waking a second one
// takes as long as these few additions.
float ordered_mean(const float *values, int64_t count) {
  double sums[kLanes] = {}, total = 0.0;
  for (int64_t row = 0; row < count; row += kLanes) {
    const int64_t lanes = std::min<int64_t>(kLanes, count - row);
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += static_cast<double>(values[row + lane]);
  }
  for (double sum : sums) total += sum;
  return static_cast<float>(total / static_cast<double>(count));
}

int64_t quantize_scales_scalar(const QuantizeScalesJob &job, int64_t first, int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    const int64_t begin = g * job.group, end = std::min(job.count, begin + job.group);
    uint32_t magnitude = 0;
    for (int64_t i = begin; i < end; ++i)
      magnitude = std::max(magnitude, bits_of(job.scales[i] - job.mean) & 0x7fffffffu);
    if (magnitude >= 0x7f800000u) return g;
    job.group_absmax[g] = float_of(magnitude);
    const float inverse = 1.0f / std::max(job.group_absmax[g], kSmallestScale);
    for (int64_t i = begin; i < end; ++i) {
      const float scaled = (job.scales[i] - job.mean) * inverse;
      job.codes[i] = position_of(std::min(std::max(scaled, -1.0f), 1.0f), job.thresholds);
    }
  }
  return -1;
}

void dequantize_scales_scalar(const DequantizeScalesJob &job, int64_t first, int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    const int64_t begin = g * job.group, end = std::min(job.count, begin + job.group);
    for (int64_t i = begin; i < end; ++i) job.out[i] = job.map[job.codes[i]] * job.group_absmax[g] + job.mean;
  }
}

}  // namespace quatro
