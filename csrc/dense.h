// Products of few rows with dense 16-bit weights, in float32: what a decoding step does with an output head. Plain data only.
//
// Sixteen partial sums: lane j adds the products of elements j, j + 16, ... in order with fused multiply-adds (past the end both
// factors are 0); then lanes j and j + 8 are added, j and j + 4, j and j + 2, j and j + 1. So every instruction set has the same bits.
#ifndef QUATRO_DENSE_H
#define QUATRO_DENSE_H

#include <cstdint>

namespace quatro {

struct DenseJob {
  const uint16_t *weight;  // (outputs, inputs)
  int dtype;               // of the weight: bfloat16 or float16
  int64_t outputs, inputs;
  const float *x;  // (rows, inputs)
  int64_t rows;
  const float *bias;  // (outputs) or null
  float *out;         // (rows, outputs)
};

constexpr int64_t kDenseLanes = 16;

// Each works on outputs [first, last).
void dense_scalar(const DenseJob &job, int64_t first, int64_t last);
void dense_avx2(const DenseJob &job, int64_t first, int64_t last);
void dense_avx512(const DenseJob &job, int64_t first, int64_t last);

}  // namespace quatro

#endif
