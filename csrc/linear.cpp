// x W^T and its gradient, one product at a time: the twin that the SIMD files equal to the bit.
#include <algorithm>
#include <cmath>

#include "backward_steps.h"
#include "integer_rows.h"
#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

struct PlainLoad {
  static void store(const int32_t *integers, int count, int16_t *out) {
    for (int i = 0; i < count; ++i) out[i] = static_cast<int16_t>(integers[i]);
  }

  static void load(const RowsJob &job, int64_t begin, int64_t count, float *values) {
    if (job.dtype == QUATRO_BF16) return load<BFloat16>(job.source, begin, count, values);
    if (job.dtype == QUATRO_F16) return load<Float16>(job.source, begin, count, values);
    return load<Float32>(job.source, begin, count, values);
  }

 private:
  template <class Format>
  static void load(const void *source, int64_t begin, int64_t count, float *values) {
    const auto *stored = static_cast<const typename Format::Stored *>(source) + begin;
    for (int64_t i = 0; i < count; ++i) values[i] = Format::load(stored[i]);
  }
};

int code_at(const Weight &weight, int64_t at) { return weight.codes[at / 2] >> (at % 2 ? 0 : 4) & 15; }

float scale_at(const Weight &weight, int64_t block) {
  if (weight.absmax) return weight.absmax[block];
  return weight.map[weight.nested[block]] * weight.group_absmax[block / weight.group] + weight.mean;
}

void store(const ProductJob &job, int64_t at, float value) {
  if (job.dtype == QUATRO_BF16)
    static_cast<uint16_t *>(job.out)[at] = BFloat16::store(value);
  else if (job.dtype == QUATRO_F16)
    static_cast<uint16_t *>(job.out)[at] = Float16::store(value);
  else
    static_cast<float *>(job.out)[at] = value;
}

float output(const ProductJob &job, int64_t t, int64_t n) {
  const Weight &weight = job.weight;
  const Rows &rows = job.rows;
  float total = 0.0f;
  for (int64_t u = 0; u < rows.units; ++u) {
    const int64_t x = u * rows.count + t, w = n * weight.inputs + u * rows.unit, block = w / weight.block;
    int32_t sum = 0;
    for (int64_t i = 0; i < rows.unit; ++i)
      sum += int32_t{job.steps[code_at(weight, w + i)]} * rows.values[x * rows.unit + i];
    float dot = static_cast<float>(sum);
    if (rows.sums) dot = std::fma(-(weight.zeros[block] * job.steps_per_one), rows.sums[x], dot);
    total = std::fma(dot, scale_at(weight, block) * rows.scales[x], total);
  }
  total = total * job.unit_value * rows.powers[t];
  return job.bias ? total + job.bias[n] : total;
}

int16_t step_of(const ProductJob &job, const BackwardSteps &steps, int64_t n, int64_t column, int64_t k) {
  const int code = code_at(job.weight, n * job.weight.inputs + column + k);
  const float value = (job.weight.table[code] - steps.zero(n, k / 32)) * steps.factor(n, k / 32);
  return static_cast<int16_t>(rounded(std::min(std::max(value, -kBackwardFull), kBackwardFull)));
}

// Adds what unit u of outputs contributes to the gradients of a tile of inputs.
void add_unit(const ProductJob &job, const BackwardSteps &steps, int64_t u, int64_t column, int64_t columns, float *sums) {
  const Rows &rows = job.rows;
  const int64_t first = u * kBackwardUnit, count = std::min(kBackwardUnit, job.weight.outputs - first);
  int16_t decoded[kBackwardUnit][kBackwardInputs];
  for (int64_t n = 0; n < count; ++n)
    for (int64_t k = 0; k < columns; ++k) decoded[n][k] = step_of(job, steps, first + n, column, k);
  for (int64_t t = 0; t < rows.count; ++t) {
    const int64_t x = u * rows.count + t;
    for (int64_t k = 0; k < columns; ++k) {
      int32_t sum = 0;
      for (int64_t n = 0; n < count; ++n) sum += int32_t{decoded[n][k]} * rows.values[x * kBackwardUnit + n];
      float &total = sums[t * kBackwardInputs + k];
      total = std::fma(static_cast<float>(sum), steps.full(u) * rows.scales[x], total);
    }
  }
}

}  // namespace

void integer_rows_scalar(const RowsJob &job, int64_t first, int64_t last) { integer_rows<PlainLoad>(job, first, last); }

void linear_scalar(const ProductJob &job, int64_t first, int64_t last, void *) {
  const int64_t end = std::min(last * kForwardOutputs, job.weight.outputs);
  for (int64_t t = 0; t < job.rows.count; ++t)
    for (int64_t n = first * kForwardOutputs; n < end; ++n) store(job, t * job.weight.outputs + n, output(job, t, n));
}

void linear_backward_scalar(const ProductJob &job, int64_t first, int64_t last, void *memory) {
  const Rows &rows = job.rows;
  float *sums = static_cast<float *>(memory);
  BackwardSteps steps(job, sums + rows.count * kBackwardInputs);
  for (int64_t group = first; group < last; ++group) {
    const int64_t column = group * kBackwardInputs, columns = std::min(kBackwardInputs, job.weight.inputs - column);
    steps.turn_to(column, columns);
    std::fill(sums, sums + rows.count * kBackwardInputs, 0.0f);
    for (int64_t u = 0; u < rows.units; ++u) add_unit(job, steps, u, column, columns, sums);
    for (int64_t t = 0; t < rows.count; ++t)
      for (int64_t k = 0; k < columns; ++k)
        store(job, t * job.weight.inputs + column + k,
              sums[t * kBackwardInputs + k] * job.unit_value * rows.powers[t]);
  }
}

}  // namespace quatro
