// What the kernels are told, and who they are. Plain data only: it is compiled under several instruction sets, and an
// inline function could be emitted with one of them and linked into the path of another.
#ifndef QUATRO_KERNELS_H
#define QUATRO_KERNELS_H

#include <cstdint>

namespace quatro {

constexpr float kSmallestScale = 1e-38f;  // scales are not divided by below this
constexpr int64_t kUnit = 32;             // weights that a SIMD step turns into 16 bytes; blocks are multiples of it

struct QuantizeJob {
  const void *weights;
  int dtype;
  int64_t count, block;
  float thresholds[16];  // the last one is +inf
  uint8_t order[16];
  uint8_t zero_code;
  float full_scale;
  uint8_t *codes;
  float *scales, *zeros;  // zeros: affine only
};

struct DequantizeJob {
  const uint8_t *codes;
  int64_t count, block;
  float table[16];
  const float *scales, *zeros;
  void *out;
  int dtype;
  bool stream;  // write around the caches
};

struct QuantizeScalesJob {
  const float *scales;
  int64_t count, group;
  const float *thresholds;  // 255
  float mean;
  uint8_t *codes;
  float *group_absmax;
};

struct DequantizeScalesJob {
  const uint8_t *codes;
  int64_t count, group;
  const float *map, *group_absmax;
  float mean;
  float *out;
};

// Each works on blocks (groups) [first, last). The scalar ones take every block; the others only blocks that are full.
// quantize_* return the first block with a NaN or an Inf, else -1.
int64_t quantize_scalar(const QuantizeJob &job, int64_t first, int64_t last);
int64_t quantize_avx2(const QuantizeJob &job, int64_t first, int64_t last);
int64_t quantize_avx512(const QuantizeJob &job, int64_t first, int64_t last);

void dequantize_scalar(const DequantizeJob &job, int64_t first, int64_t last);
void dequantize_avx2(const DequantizeJob &job, int64_t first, int64_t last);
void dequantize_avx512(const DequantizeJob &job, int64_t first, int64_t last);

int64_t quantize_scales_scalar(const QuantizeScalesJob &job, int64_t first, int64_t last);
int64_t quantize_scales_avx2(const QuantizeScalesJob &job, int64_t first, int64_t last);
int64_t quantize_scales_avx512(const QuantizeScalesJob &job, int64_t first, int64_t last);

void dequantize_scales_scalar(const DequantizeScalesJob &job, int64_t first, int64_t last);
void dequantize_scales_avx2(const DequantizeScalesJob &job, int64_t first, int64_t last);
void dequantize_scales_avx512(const DequantizeScalesJob &job, int64_t first, int64_t last);

// The mean in float64, in an order that does not depend on threads or instruction sets, rounded once.
float ordered_mean(const float *values, int64_t count);

}  // namespace quatro

#endif
