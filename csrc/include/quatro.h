/* The plain C interface of quatro's CPU kernels. No torch, no Python: pointers, sizes, and a status that tells what is wrong.
 *
 * Weights are row-major and flattened to n elements; block b covers elements [b*block, min(n, (b+1)*block)).
 * Codes are 4 bits, two a byte, the first weight in the high nibble; an odd count leaves the last low nibble with the
 * code of 0.0. Tables and thresholds come from the caller (quatro.format writes each fact once).
 */
#ifndef QUATRO_H
#define QUATRO_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define QUATRO_API __declspec(dllexport)
#else
#define QUATRO_API __attribute__((visibility("default")))
#endif

#define QUATRO_ABI 3

enum quatro_status { QUATRO_OK = 0, QUATRO_BAD_ARGUMENT = 1, QUATRO_NON_FINITE = 2, QUATRO_BAD_ISA = 3 };
enum quatro_dtype { QUATRO_F32 = 0, QUATRO_BF16 = 1, QUATRO_F16 = 2 };
/* The instruction sets a function can be asked for. AVX2 means AVX2, FMA and F16C; AVX512 adds F, BW, VL, DQ, VBMI and VNNI. */
enum quatro_isa { QUATRO_SCALAR = 0, QUATRO_AVX2 = 1, QUATRO_AVX512 = 2 };

QUATRO_API int quatro_abi(void);
QUATRO_API int quatro_best_isa(void); /* by CPUID and XGETBV, never by compile flags */
QUATRO_API const char *quatro_status_text(int status);

/* w (n) of dtype -> codes ((n+1)/2), scales (ceil(n/block)) float32 and, affine only, zeros (ceil(n/block)) float32.
 *
 * thresholds: 15 ascending float32 (+inf pads a shorter table); the position of x is the number of thresholds < x, so a
 *   tie goes to the lower entry. order: 16 bytes, sorted position -> code.
 * Blocks are multiples of 32. Every step below is one float32 operation: no fused multiply-add, no reciprocal estimate.
 * Symmetric: scale = absmax / full_scale; whole blocks use x * (1 / max(scale, 1e-38)), the ragged last block
 *   x / max(scale, 1e-38); then clip to [-full_scale, full_scale]. With full_scale == 1 scale is absmax itself, bit for bit.
 * Affine (zeros != NULL): scale = hi / full_scale - lo / full_scale, zero = -(lo / scale), position of (x - lo) / scale.
 *   Where that scale is 0: scale = |lo|, zero = -sign(lo), position 0, so that a constant block comes back exactly.
 * Returns QUATRO_NON_FINITE and *first_bad, the smallest index of a NaN or Inf (else -1); the outputs are then undefined. */
QUATRO_API int quatro_quantize(const void *w, int dtype, int64_t n, int64_t block, const float *thresholds,
                               const uint8_t *order, float full_scale, uint8_t *codes, float *scales, float *zeros,
                               int64_t *first_bad, int isa, int threads);

/* out[i] = table[code] * scale, or (table[code] - zero) * scale where zeros != NULL: float32 operations, each rounded once,
 * then one cast to dtype, round to nearest even. table: 16 float32, by code. scales, zeros: ceil(n/block) float32. */
QUATRO_API int quatro_dequantize(const uint8_t *codes, int64_t n, int64_t block, const float *table,
                                 const float *scales, const float *zeros, void *out, int dtype, int isa, int threads);

/* Double quantization of n >= 1 scales. mean: float64 by 256 lanes (lane j sums elements j, j+256, ... in order; the lanes are
 * then added in order 0..255), rounded once to float32. The rest, x - mean, in float32; per group of `group` (a multiple of 32)
 * its absmax, and as codes the positions of rest * (1 / max(absmax, 1e-38)), clipped to [-1, 1], among 255 ascending
 * `thresholds`, a tie to the lower. A ragged last group uses the same multiplication. The bits do not depend on `threads`. */
QUATRO_API int quatro_quantize_scales(const float *scales, int64_t n, int64_t group, const float *thresholds,
                                      uint8_t *codes, float *group_absmax, float *mean, int isa, int threads);

/* out[i] = map[code] * group_absmax + mean: a float32 multiply, then a float32 add, no fused multiply-add. */
QUATRO_API int quatro_dequantize_scales(const uint8_t *codes, int64_t n, int64_t group, const float *map,
                                        const float *group_absmax, float mean, float *out, int isa, int threads);

/* A frozen weight (outputs, inputs), row-major: its codes, and how they are read. inputs is a multiple of block.
 * Scales are absmax (outputs * inputs / block) float32 or, where absmax is NULL, nested: one byte each, read as
 * map[byte] * group_absmax[index / group] + *mean. zeros, affine only: value = scale * (table - zero). */
struct quatro_weight {
  const uint8_t *codes;
  int64_t outputs, inputs, block;
  const float *table; /* 16, by code */
  const float *absmax;
  const uint8_t *nested;
  int64_t group; /* a multiple of 32, at most 2^30 */
  const float *map; /* 256 */
  const float *group_absmax;
  const float *mean; /* one */
  const float *zeros;
};

/* Bytes that a product of `rows` rows needs beside its arguments, or -1 for sizes that no product has. */
QUATRO_API int64_t quatro_product_workspace(int64_t outputs, int64_t inputs, int64_t block, int64_t rows, int threads);

/* out (rows, outputs) = x (rows, inputs) W^T + bias, both of dtype; bias (outputs) float32 or NULL.
 *
 * steps: 16 integers of magnitude 4095 or less with table[i] ~ steps[i] / steps_per_one: they take the table's place.
 * Activations become integers of 64 (of 32, where block is 32) with a common scale. Products are summed as integers within
 * such a unit, and over units in float32 in ascending order with fused multiply-adds. The bits are the same for every isa,
 * number of threads and number of rows. A row with a NaN or an Inf gives an output row of NaN.
 * workspace: quatro_product_workspace bytes, aligned to 64; nothing else is allocated. No argument may overlap out or it. */
QUATRO_API int quatro_linear(const struct quatro_weight *weight, const int16_t *steps, float steps_per_one, const void *x,
                             int dtype, int64_t rows, const float *bias, void *out, void *workspace, int isa, int threads);

/* out (rows, inputs) = g (rows, outputs) W: the gradient to the input, by the same means. Units are 32 outputs. */
QUATRO_API int quatro_linear_backward(const struct quatro_weight *weight, const void *g, int dtype, int64_t rows, void *out,
                                      void *workspace, int isa, int threads);

/* out (rows, outputs) = x (rows, inputs) W^T + bias in float32, for a dense W (outputs, inputs) of bfloat16 or float16, which is
 * read once for every four rows and never copied. bias (outputs) or NULL. Sixteen partial sums in a fixed order (csrc/dense.h):
 * the bits are the same for every isa, number of threads and number of rows. */
QUATRO_API int quatro_dense_linear(const void *weight, int weight_dtype, int64_t outputs, int64_t inputs, const float *x,
                                   int64_t rows, const float *bias, float *out, int isa, int threads);

enum quatro_rule { QUATRO_ADAMW = 0, QUATRO_LION = 1 };

/* One parameter of an optimizer's step: count float32 elements, gradients beside them, and states: float32, or uint8 with a float32
 * absmax for every 256 elements. Lion has no second. keep = 1 - lr * weight_decay; rest1 = 1 - beta1, rest2 = 1 - beta2.
 *   AdamW: m += (g - m) * rest1; v = v * beta2 + g * g * rest2; p = p * keep - m / (sqrt(v) * unbias + epsilon) * rate
 *     with rate = lr / (1 - beta1^t), unbias = 1 / sqrt(1 - beta2^t).
 *   Lion: c = m * beta1 + g * rest1; m = m * beta2 + g * rest2; p = p * keep - sign(c) * rate. */
struct quatro_update {
  float *parameter;
  const float *gradient;
  void *first, *second;
  float *first_absmax, *second_absmax;
  int64_t count;
  float keep, beta1, rest1, beta2, rest2, unbias, epsilon, rate;
};

/* An 8-bit dynamic map (arXiv 2110.02861): 256 ascending values, seven decades d of 2^d (signed) or 2^(d+1) equal bins.
 * x = min(|state| / absmax, 1) is in decade d = number of edges <= x, and there in bin trunc(max(x * steps[d] + starts[d], 0)), at
 * most the last; from top on it takes the value 1. Only an exact 0 takes the value 0. The eighth step and start are not used. */
struct quatro_dynamic_map {
  const float *values;
  float edges[6], steps[8], starts[8], top;
};

/* A step over all updates, in place, with states of `bits` (8 or 32). maps: the signed one, then the unsigned; 8 bits only. Every
 * float32 operation above is rounded once, without fused multiply-adds: the bits are the same for every isa and number of threads. */
QUATRO_API int quatro_optimizer_step(const struct quatro_update *updates, int64_t count, int rule, int bits,
                                     const struct quatro_dynamic_map *maps, int isa, int threads);

#ifdef __cplusplus
}
#endif
#endif
