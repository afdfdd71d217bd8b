// The products of the plain C interface: arguments are checked, activations become integers, groups are dealt out to threads.
#include "product.h"

#include <algorithm>

#include "arguments.h"
#include "dense.h"
#include "parallel.h"

namespace quatro {
namespace {

constexpr decltype(&integer_rows_scalar) kIntegerRows[] = QUATRO_TWINS(integer_rows);
constexpr decltype(&linear_scalar) kLinear[] = QUATRO_TWINS(linear);
constexpr decltype(&linear_backward_scalar) kLinearBackward[] = QUATRO_TWINS(linear_backward);
constexpr decltype(&dense_scalar) kDense[] = QUATRO_TWINS(dense);
constexpr decltype(&dequantize_scales_scalar) kDequantizeScales[] = QUATRO_TWINS(dequantize_scales);

constexpr int kLargestStep = 4095;
constexpr float kSmallestTable = 0x1p-20f;  // of a table's largest magnitude
constexpr int64_t kLine = 64, kMostRows = int64_t{1} << 32, kMostSide = int64_t{1} << 32, kMostGroup = 1 << 30;

int64_t groups_of(int64_t items, int64_t size) { return (items + size - 1) / size; }
int64_t whole_lines(int64_t bytes) { return groups_of(bytes, kLine) * kLine; }

// Hands out pieces of the workspace; with no memory it only counts.
class Workspace {
 public:
  explicit Workspace(void *memory) : memory_(static_cast<char *>(memory)) {}
  template <class T>
  T *take(int64_t count) {
    T *piece = reinterpret_cast<T *>(memory_ + used_);
    used_ += whole_lines(count * static_cast<int64_t>(sizeof(T)));
    return memory_ ? piece : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  char *memory_;
  int64_t used_ = 0;
};

Rows rows_in(Workspace &workspace, int64_t count, int64_t width, int64_t unit, bool sums) {
  Rows rows = {count, groups_of(width, unit), unit, nullptr, nullptr, nullptr, nullptr};
  rows.values = workspace.take<int16_t>(rows.units * count * unit);
  rows.scales = workspace.take<float>(rows.units * count);
  rows.powers = workspace.take<float>(count);
  if (sums) rows.sums = workspace.take<float>(rows.units * count);
  return rows;
}

int64_t forward_unit(int64_t block) { return block == 32 ? 32 : 64; }

bool valid_shape(int64_t outputs, int64_t inputs, int64_t block, int64_t rows) {
  return outputs > 0 && inputs > 0 && outputs <= kMostSide && inputs <= kMostSide && valid_block(block) &&
         (block == 32 || block % 64 == 0) && inputs % block == 0 && outputs <= kMostElements / inputs && rows >= 0 &&
         rows <= kMostRows && rows <= kMostElements / std::max(outputs, inputs);
}

bool valid_table(const float *table) {
  if (!floats(table) || !finite(table, 16)) return false;
  const auto [low, high] = std::minmax_element(table, table + 16);
  return std::max(std::fabs(*low), std::fabs(*high)) >= kSmallestTable;
}

bool valid_weight(const quatro_weight *weight, int64_t rows) {
  if (!weight || !valid_shape(weight->outputs, weight->inputs, weight->block, rows) || !valid_table(weight->table) ||
      !weight->codes || !aligned(weight->zeros, alignof(float)))
    return false;
  if (weight->absmax) return aligned(weight->absmax, alignof(float));
  return weight->nested && weight->group > 0 && weight->group <= kMostGroup && weight->group % kUnit == 0 &&
         floats(weight->map) && floats(weight->group_absmax) && floats(weight->mean);
}

bool valid_steps(const int16_t *steps, float steps_per_one) {
  return steps && aligned(steps, alignof(int16_t)) && std::isfinite(steps_per_one) && steps_per_one > 0.0f &&
         std::all_of(steps, steps + 16, [](int step) { return std::abs(step) <= kLargestStep; });
}

Weight weight_of(const quatro_weight &given) {
  Weight weight = {given.codes, given.outputs, given.inputs,       given.block, {},         given.absmax,
                   given.nested, given.group,  given.map, given.group_absmax, given.absmax ? 0.0f : *given.mean, given.zeros};
  std::copy(given.table, given.table + 16, weight.table);
  return weight;
}

void make_integers(const void *source, int dtype, int64_t width, float full, const Rows &rows, int isa, int threads) {
  const RowsJob job = {source, dtype, width, full, rows};
  for_ranges(rows.count, useful_threads(rows.count * width, threads),
             [&](int64_t first, int64_t last) { kIntegerRows[isa](job, first, last); });
}

// How many threads are worth waking for a product; more rows than these do not change the answer, nor overflow it.
int useful_threads_for(int64_t outputs, int64_t inputs, int64_t rows, int threads) {
  return useful_threads(outputs * inputs * std::min<int64_t>(rows, kMostThreads), threads);
}

// kernels[isa] on shares of the groups, each thread with its own memory.
template <class Kernel>
void run_groups(const ProductJob &job, int64_t groups, const Kernel *kernels, char *memory, int64_t memory_each, int isa,
                int threads) {
  const int useful = useful_threads_for(job.weight.outputs, job.weight.inputs, job.rows.count, threads);
  for_shares(groups, useful, [&](int64_t first, int64_t last, int64_t share) {
    kernels[isa](job, first, last, memory + share * memory_each);
  });
}

// Nested scales as floats: the backward product meets each of them in its own place.
const float *plain_scales(const Weight &weight, Workspace &workspace, int isa, int threads) {
  const int64_t count = weight.outputs * (weight.inputs / weight.block), full = count / weight.group;
  float *out = workspace.take<float>(count);
  const DequantizeScalesJob job = {weight.nested, count, weight.group, weight.map, weight.group_absmax, weight.mean, out};
  for_ranges(groups_of(count, weight.group), useful_threads(count, threads), [&](int64_t first, int64_t last) {
    kDequantizeScales[isa](job, first, std::min(last, full));
    if (last > full) kDequantizeScales[QUATRO_SCALAR](job, full, last);
  });
  return out;
}

int64_t forward_bytes(int64_t inputs, int64_t block, int64_t rows, int threads) {
  Workspace workspace(nullptr);
  rows_in(workspace, rows, inputs, forward_unit(block), true);
  return workspace.used() + threads * whole_lines(forward_memory(rows, inputs));
}

int64_t backward_bytes(int64_t outputs, int64_t inputs, int64_t block, int64_t rows, int threads) {
  Workspace workspace(nullptr);
  rows_in(workspace, rows, outputs, kBackwardUnit, false);
  workspace.take<float>(outputs * (inputs / block));
  return workspace.used() + threads * whole_lines(backward_memory(rows, outputs));
}

}  // namespace
}  // namespace quatro

using namespace quatro;

extern "C" {

int64_t quatro_product_workspace(int64_t outputs, int64_t inputs, int64_t block, int64_t rows, int threads) {
  if (!valid_shape(outputs, inputs, block, rows) || !valid_threads(threads)) return -1;
  return std::max(forward_bytes(inputs, block, rows, threads),
                  backward_bytes(outputs, inputs, block, rows, threads));
}

int quatro_linear(const struct quatro_weight *weight, const int16_t *steps, float steps_per_one, const void *x, int dtype,
                  int64_t rows, const float *bias, void *out, void *workspace, int isa, int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if (!valid_weight(weight, rows) || !valid_steps(steps, steps_per_one) || !valid_dtype(dtype) || !valid_threads(threads) ||
      !aligned(bias, alignof(float)))
    return QUATRO_BAD_ARGUMENT;
  if (!rows) return QUATRO_OK;
  if (!numbers(x, dtype) || !numbers(out, dtype) || !workspace || !aligned(workspace, kLine)) return QUATRO_BAD_ARGUMENT;
  Workspace pieces(workspace);
  ProductJob job = {};
  job.weight = weight_of(*weight);
  job.rows = rows_in(pieces, rows, weight->inputs, forward_unit(weight->block), weight->zeros != nullptr);
  int largest = 1;
  for (int i = 0; i < 16; ++i) job.steps[i] = steps[i], largest = std::max(largest, std::abs(steps[i]));
  const int full = std::min(32767, 0x7fffffff / (64 * largest));  // 64 products stay below 2^31
  job.steps_per_one = steps_per_one;
  job.unit_value = 1.0f / (steps_per_one * static_cast<float>(full));
  job.bias = bias;
  job.out = out;
  job.dtype = dtype;
  make_integers(x, dtype, weight->inputs, static_cast<float>(full), job.rows, isa, threads);
  const int64_t each = whole_lines(forward_memory(rows, weight->inputs));
  run_groups(job, groups_of(weight->outputs, kForwardOutputs), kLinear, pieces.take<char>(0), each, isa, threads);
  return QUATRO_OK;
}

int quatro_linear_backward(const struct quatro_weight *weight, const void *g, int dtype, int64_t rows, void *out,
                           void *workspace, int isa, int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if (!valid_weight(weight, rows) || !valid_dtype(dtype) || !valid_threads(threads)) return QUATRO_BAD_ARGUMENT;
  if (!rows) return QUATRO_OK;
  if (!numbers(g, dtype) || !numbers(out, dtype) || !workspace || !aligned(workspace, kLine)) return QUATRO_BAD_ARGUMENT;
  Workspace pieces(workspace);
  ProductJob job = {};
  job.weight = weight_of(*weight);
  job.rows = rows_in(pieces, rows, weight->outputs, kBackwardUnit, false);
  job.unit_value = 1.0f / (kBackwardFull * kBackwardFull);
  job.out = out;
  job.dtype = dtype;
  if (!job.weight.absmax) job.weight.absmax = plain_scales(job.weight, pieces, isa, threads);
  make_integers(g, dtype, weight->outputs, kBackwardFull, job.rows, isa, threads);
  const int64_t each = whole_lines(backward_memory(rows, weight->outputs));
  run_groups(job, groups_of(weight->inputs, kBackwardInputs), kLinearBackward, pieces.take<char>(0), each, isa, threads);
  return QUATRO_OK;
}

int quatro_dense_linear(const void *weight, int weight_dtype, int64_t outputs, int64_t inputs, const float *x, int64_t rows,
                        const float *bias, float *out, int isa, int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if ((weight_dtype != QUATRO_BF16 && weight_dtype != QUATRO_F16) || outputs <= 0 || inputs <= 0 || outputs > kMostSide ||
      inputs > kMostSide || outputs > kMostElements / inputs || rows < 0 || rows > kMostRows ||
      rows > kMostElements / std::max(outputs, inputs) || !valid_threads(threads) || !numbers(weight, weight_dtype) ||
      !aligned(bias, alignof(float)))
    return QUATRO_BAD_ARGUMENT;
  if (!rows) return QUATRO_OK;
  if (!floats(x) || !floats(out)) return QUATRO_BAD_ARGUMENT;
  const DenseJob job = {static_cast<const uint16_t *>(weight), weight_dtype, outputs, inputs, x, rows, bias, out};
  for_ranges(outputs, useful_threads_for(outputs, inputs, rows, threads),
             [&](int64_t first, int64_t last) { kDense[isa](job, first, last); });
  return QUATRO_OK;
}

}  // extern "C"
