// The plain C interface: every argument is checked before a pointer is followed, then blocks are dealt out to threads.
#include <algorithm>
#include <atomic>
#include <limits>

#include "arguments.h"
#include "convert.h"
#include "pages.h"
#include "parallel.h"

namespace quatro {
namespace {

constexpr int64_t kMostKept = int64_t{12} << 20;  // bytes; a cache of many cores keeps less of ours than its size says

bool valid_sizes(int64_t n, int64_t block, int threads) {
  return valid_count(n) && valid_block(block) && valid_threads(threads);
}
bool ascending(const float *values, int count) {
  for (int i = 0; i < count; ++i)
    if (std::isnan(values[i]) || (i && values[i] < values[i - 1])) return false;
  return true;
}
bool valid_order(const uint8_t *order) {
  return std::all_of(order, order + 16, [](uint8_t code) { return code < 16; });
}

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }
constexpr decltype(&quantize_scalar) kQuantize[] = QUATRO_TWINS(quantize);
constexpr decltype(&dequantize_scalar) kDequantize[] = QUATRO_TWINS(dequantize);
constexpr decltype(&quantize_scales_scalar) kQuantizeScales[] = QUATRO_TWINS(quantize_scales);
constexpr decltype(&dequantize_scales_scalar) kDequantizeScales[] = QUATRO_TWINS(dequantize_scales);

// Runs kernels[isa] on full blocks and kernels[scalar] on a ragged last one. Returns the smallest block reported, or -1.
template <class Job, class Kernel>
int64_t run_blocks(const Job &job, int64_t block, const Kernel *kernels, int isa, int threads) {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> reported{kNone};
  const int64_t full = job.count / block;
  for_ranges(blocks_of(job.count, block), useful_threads(job.count, threads), [&](int64_t first, int64_t last) {
    int64_t found = kernels[isa](job, first, std::min(last, full));
    if (found < 0 && last > full) found = kernels[QUATRO_SCALAR](job, full, last);
    for (int64_t seen = reported; found >= 0 && found < seen;)
      if (reported.compare_exchange_weak(seen, found)) break;
  });
  return reported == kNone ? -1 : reported.load();
}

template <class Job>
void run_blocks(const Job &job, int64_t block, void (*const *kernels)(const Job &, int64_t, int64_t), int isa,
                int threads) {
  const int64_t full = job.count / block;
  for_ranges(blocks_of(job.count, block), useful_threads(job.count, threads), [&](int64_t first, int64_t last) {
    kernels[isa](job, first, std::min(last, full));
    if (last > full) kernels[QUATRO_SCALAR](job, full, last);
  });
}

template <class Format>
int64_t first_non_finite(const void *weights, int64_t begin, int64_t end) {
  const auto *stored = static_cast<const typename Format::Stored *>(weights);
  while (begin < end && std::isfinite(Format::load(stored[begin]))) ++begin;
  return begin;
}

int64_t first_non_finite(const QuantizeJob &job, int64_t block) {
  const int64_t begin = block * job.block, end = std::min(job.count, begin + job.block);
  if (job.dtype == QUATRO_BF16) return first_non_finite<BFloat16>(job.weights, begin, end);
  if (job.dtype == QUATRO_F16) return first_non_finite<Float16>(job.weights, begin, end);
  return first_non_finite<Float32>(job.weights, begin, end);
}

// Whether an output is too large to be in a cache still when it is read again. Then writing around the caches saves
// reading what is overwritten: twice the speed. Not so for fresh memory, which the system has just cleared through them.
bool should_stream(void *out, int64_t bytes) {
  const bool large = aligned(out, 64) && bytes >= std::min(last_level_cache_bytes() / 2, kMostKept);
  return !prepare_fresh(out, bytes) && large;
}

}  // namespace
}  // namespace quatro

using namespace quatro;

extern "C" {

int quatro_abi(void) { return QUATRO_ABI; }

int quatro_best_isa(void) { return best_isa(); }

const char *quatro_status_text(int status) {
  switch (status) {
    case QUATRO_OK: return "ok";
    case QUATRO_BAD_ARGUMENT: return "an argument is out of range, misaligned or null";
    case QUATRO_NON_FINITE: return "NaN or Inf where numbers are needed";
    case QUATRO_BAD_ISA: return "this processor does not have the instruction set that was asked for";
    default: return "unknown status";
  }
}

int quatro_quantize(const void *w, int dtype, int64_t n, int64_t block, const float *thresholds, const uint8_t *order,
                    float full_scale, uint8_t *codes, float *scales, float *zeros, int64_t *first_bad, int isa,
                    int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if (!valid_dtype(dtype) || !valid_sizes(n, block, threads) || !floats(thresholds) || !order || !first_bad ||
      !aligned(first_bad, alignof(int64_t)) || !(full_scale > 0.0f) || !std::isfinite(full_scale) ||
      !ascending(thresholds, 15) || !valid_order(order))
    return QUATRO_BAD_ARGUMENT;
  if (n && (!numbers(w, dtype) || !codes || !floats(scales) || !aligned(zeros, alignof(float))))
    return QUATRO_BAD_ARGUMENT;
  QuantizeJob job = {w, dtype, n, block, {}, {}, 0, full_scale, codes, scales, zeros};
  std::copy(thresholds, thresholds + 15, job.thresholds);
  job.thresholds[15] = std::numeric_limits<float>::infinity();
  std::copy(order, order + 16, job.order);
  job.zero_code = order[std::count_if(thresholds, thresholds + 15, [](float t) { return t < 0.0f; })];
  prepare_fresh(codes, n / 2);
  *first_bad = -1;
  const int64_t bad = run_blocks(job, block, kQuantize, isa, threads);
  if (bad < 0) return QUATRO_OK;
  *first_bad = first_non_finite(job, bad);
  return QUATRO_NON_FINITE;
}

int quatro_dequantize(const uint8_t *codes, int64_t n, int64_t block, const float *table, const float *scales,
                      const float *zeros, void *out, int dtype, int isa, int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if (!valid_dtype(dtype) || !valid_sizes(n, block, threads) || !floats(table) || !finite(table, 16))
    return QUATRO_BAD_ARGUMENT;
  if (n && (!codes || !floats(scales) || !aligned(zeros, alignof(float)) || !numbers(out, dtype)))
    return QUATRO_BAD_ARGUMENT;
  DequantizeJob job = {
      codes, n, block, {}, scales, zeros, out, dtype, should_stream(out, n * static_cast<int64_t>(width(dtype)))};
  std::copy(table, table + 16, job.table);
  run_blocks(job, block, kDequantize, isa, threads);
  return QUATRO_OK;
}

int quatro_quantize_scales(const float *scales, int64_t n, int64_t group, const float *thresholds, uint8_t *codes,
                           float *group_absmax, float *mean, int isa, int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if (n < 1 || !valid_sizes(n, group, threads) || !floats(thresholds) || !ascending(thresholds, 255) ||
      !floats(scales) || !codes || !floats(group_absmax) || !floats(mean))
    return QUATRO_BAD_ARGUMENT;
  const PlainFloats rules;
  *mean = ordered_mean(scales, n);
  const QuantizeScalesJob job = {scales, n, group, thresholds, *mean, codes, group_absmax};
  return run_blocks(job, group, kQuantizeScales, isa, threads) < 0 ? QUATRO_OK : QUATRO_NON_FINITE;
}

int quatro_dequantize_scales(const uint8_t *codes, int64_t n, int64_t group, const float *map,
                             const float *group_absmax, float mean, float *out, int isa, int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if (!valid_sizes(n, group, threads) || !floats(map)) return QUATRO_BAD_ARGUMENT;
  if (n && (!codes || !floats(group_absmax) || !floats(out))) return QUATRO_BAD_ARGUMENT;
  run_blocks(DequantizeScalesJob{codes, n, group, map, group_absmax, mean, out}, group, kDequantizeScales, isa,
             threads);
  return QUATRO_OK;
}

}  // extern "C"
