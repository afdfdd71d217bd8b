// What the products with 4-bit weights are told, and who they are. Plain data only, as in kernels.h.
//
// Both products contract in short units. Activations become int16 with one scale a unit, a weight is one of 16 int16 steps, a
// unit's products are summed exactly in int32, and only that sum meets the scales, in float32 and in a fixed order. So the
// bits depend neither on the instruction set, nor on the number of threads, nor on how many rows are multiplied at once.
#ifndef QUATRO_PRODUCT_H
#define QUATRO_PRODUCT_H

#include <cstdint>

namespace quatro {

// Weights (outputs, inputs), row-major; inputs is a multiple of block, block of 32.
struct Weight {
  const uint8_t *codes;
  int64_t outputs, inputs, block;
  float table[16];
  const float *absmax;  // plain scales; null where they are nested
  const uint8_t *nested;
  int64_t group;
  const float *map, *group_absmax;
  float mean;
  const float *zeros;  // affine only: value = scale * (table - zero)
};

// Rows of activations as integers: element i of unit u of row r is powers[r] * scales[u][r] * values[u][r][i] / full.
struct Rows {
  int64_t count, units, unit;
  int16_t *values;  // (units, count, unit)
  float *scales;    // (units, count); NaN where the row has a NaN or an Inf
  float *sums;      // (units, count): of a unit's values; affine tables only, else null
  float *powers;    // (count): of two, so that scales are below 2
};

struct RowsJob {
  const void *source;  // (count, width)
  int dtype;
  int64_t width;  // at most units * unit; what lies beyond is 0
  float full;     // the largest value
  Rows rows;
};

struct ProductJob {
  Weight weight;
  Rows rows;
  int16_t steps[16];     // forward: table[i] is nearly steps[i] / steps_per_one
  float steps_per_one;   // forward
  float unit_value;      // what a step of weight times a step of activation is worth
  const float *bias;     // forward; may be null
  void *out;             // (rows, outputs), backward (rows, inputs)
  int dtype;
};

constexpr int64_t kForwardOutputs = 32;    // outputs in a forward group
constexpr int64_t kForwardInputs = 256;    // inputs whose weights are decoded at a time
constexpr int64_t kBackwardInputs = 64;    // inputs in a backward group
constexpr int64_t kBackwardOutputs = 128;  // outputs whose weights are decoded at a time
constexpr int64_t kBackwardUnit = 32;      // outputs that a backward unit contracts
constexpr float kBackwardFull = 8191.0f;   // 32 products of two such stay below 2^31

// Bytes of a thread's own memory: decoded weights, their scales and zeros, and float32 sums of every row.
constexpr int64_t forward_memory(int64_t rows, int64_t inputs) {
  return kForwardOutputs * (2 * kForwardInputs + 4 * 2 * (inputs / 32) + 4 * rows);
}
constexpr int64_t backward_memory(int64_t rows, int64_t outputs) {
  return kBackwardInputs * (2 * kBackwardOutputs + 4 * rows) + 4 * 5 * (outputs + kBackwardUnit);
}

// Each works on rows [first, last) of activations. The SIMD ones write each 8 values in the order that their products read.
void integer_rows_scalar(const RowsJob &job, int64_t first, int64_t last);
void integer_rows_avx2(const RowsJob &job, int64_t first, int64_t last);
void integer_rows_avx512(const RowsJob &job, int64_t first, int64_t last);

// Each works on groups [first, last) of kForwardOutputs outputs; memory: forward_memory bytes, aligned to 64.
void linear_scalar(const ProductJob &job, int64_t first, int64_t last, void *memory);
void linear_avx2(const ProductJob &job, int64_t first, int64_t last, void *memory);
void linear_avx512(const ProductJob &job, int64_t first, int64_t last, void *memory);

// Each works on groups [first, last) of kBackwardInputs inputs; scales must be plain; memory: backward_memory bytes.
void linear_backward_scalar(const ProductJob &job, int64_t first, int64_t last, void *memory);
void linear_backward_avx2(const ProductJob &job, int64_t first, int64_t last, void *memory);
void linear_backward_avx512(const ProductJob &job, int64_t first, int64_t last, void *memory);

}  // namespace quatro

#endif
