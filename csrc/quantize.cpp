// Weights to 4-bit codes, one at a time: the twin that the SIMD files equal, and the path of the ragged last block.
#include <algorithm>
#include <limits>

#include "block_scale.h"
#include "convert.h"
#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kChunk = 256;  // weights converted at a time; even, so a chunk ends with a byte

template <class Format>
void load(const QuantizeJob &job, int64_t begin, int64_t count, float *values) {
  const auto *stored = static_cast<const typename Format::Stored *>(job.weights) + begin;
  for (int64_t i = 0; i < count; ++i) values[i] = Format::load(stored[i]);
}

template <class Format>
Extremes extremes(const QuantizeJob &job, int64_t begin, int64_t end) {
  Extremes found = {0, kInfinity, -kInfinity};
  float values[kChunk];
  for (int64_t at = begin; at < end; at += kChunk) {
    const int64_t count = std::min(kChunk, end - at);
    load<Format>(job, at, count, values);
    for (int64_t i = 0; i < count; ++i) {
      found.magnitude = std::max(found.magnitude, bits_of(values[i]) & 0x7fffffffu);
      found.low = values[i] < found.low ? values[i] : found.low;
      found.high = values[i] > found.high ? values[i] : found.high;
    }
  }
  return found;
}

// Position of each value among the thresholds, then its code. Looping over thresholds outside lets compilers vectorize.
void find_codes(const QuantizeJob &job, const float *values, int64_t count, uint8_t *found) {
  int32_t position[kChunk] = {};
  for (int t = 0; t < 15; ++t)
    for (int64_t i = 0; i < count; ++i) position[i] += values[i] > job.thresholds[t];
  for (int64_t i = 0; i < count; ++i) found[i] = job.order[position[i]];
}

template <class Format, class Normalize>
void encode(const QuantizeJob &job, int64_t begin, int64_t end, Normalize normalize) {
  float values[kChunk];
  uint8_t found[kChunk];
  for (int64_t at = begin; at < end; at += kChunk) {
    const int64_t count = std::min(kChunk, end - at);
    load<Format>(job, at, count, values);
    for (int64_t i = 0; i < count; ++i) values[i] = normalize(values[i]);
    find_codes(job, values, count, found);
    if (count % 2) found[count] = job.zero_code;
    for (int64_t i = 0; i < count; i += 2) job.codes[(at + i) / 2] = static_cast<uint8_t>(found[i] << 4 | found[i + 1]);
  }
}

template <class Format>
void encode_symmetric(const QuantizeJob &job, int64_t begin, int64_t end, float inverse, float divisor) {
  const float limit = job.full_scale;
  const auto clip = [limit](float x) { return std::min(std::max(x, -limit), limit); };
  if (end - begin == job.block)
    encode<Format>(job, begin, end, [=](float x) { return clip(x * inverse); });
  else
    encode<Format>(job, begin, end, [=](float x) { return clip(x / divisor); });
}

template <class Format>
void encode_affine(const QuantizeJob &job, int64_t begin, int64_t end, Affine affine) {
  encode<Format>(job, begin, end,
                 [=](float x) { return affine.scale == 0.0f ? 0.0f : (x - affine.low) / affine.scale; });
}

template <class Format>
int64_t quantize(const QuantizeJob &job, int64_t first, int64_t last) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t begin = b * job.block, end = std::min(job.count, begin + job.block);
    const Extremes found = extremes<Format>(job, begin, end);
    float inverse;
    Affine affine;
    if (job.zeros) {
      if (!write_scales(job, b, &found, 1, &affine)) return b;
      encode_affine<Format>(job, begin, end, affine);
    } else {
      if (!write_scales(job, b, &found.magnitude, 1, &inverse)) return b;
      encode_symmetric<Format>(job, begin, end, inverse, divisor_of(job.scales[b]));
    }
  }
  return -1;
}

}  // namespace

int64_t quantize_scalar(const QuantizeJob &job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case QUATRO_BF16: return quantize<BFloat16>(job, first, last);
    case QUATRO_F16: return quantize<Float16>(job, first, last);
    default: return quantize<Float32>(job, first, last);
  }
}

}  // namespace quatro
