// Steps of optimizers over many parameters at once: the C interface, and the twin that the SIMD files equal to the bit.
#include "optimizer.h"

#include <cmath>
#include <vector>

#include "arguments.h"
#include "optimizer_steps.h"
#include "parallel.h"

namespace quatro {
namespace {

struct One {
  static constexpr int kLanes = 1;
  using Floats = float;
  using Ints = int32_t;
  struct Picks {
    explicit Picks(const float *eight) : eight(eight) {}
    float pick(int32_t i) const { return eight[i]; }
    const float *eight;
  };

  static float all(float x) { return x; }
  static int32_t ints(int32_t x) { return x; }
  static float load(const float *x) { return *x; }
  static void store(float *to, float x) { *to = x; }
  static float add(float a, float b) { return a + b; }
  static int32_t add(int32_t a, int32_t b) { return a + b; }
  static float sub(float a, float b) { return a - b; }
  static int32_t sub(int32_t a, int32_t b) { return a - b; }
  static float mul(float a, float b) { return a * b; }
  static float div(float a, float b) { return a / b; }
  static float sqrt(float x) { return std::sqrt(x); }
  static float abs(float x) { return std::fabs(x); }
  static float larger(float a, float b) { return a > b ? a : b; }
  static float at_most(float x, float most) { return x < most ? x : most; }
  static float at_least(float x, float least) { return x > least ? x : least; }
  static int32_t min(int32_t a, int32_t b) { return a < b ? a : b; }
  static int32_t to_ints(float x) { return static_cast<int32_t>(x); }
  static int32_t power_of_two(int32_t exponent, int more) { return 1 << (exponent + more); }
  // Lanes of `step` with the sign of x, and 0 where x is 0.
  static float sign(float x, float step) { return x > 0 ? step : x < 0 ? -step : 0.0f; }
  static int32_t add_where_at_least(int32_t to, float x, float edge) { return to + (x >= edge); }
  static int32_t where_at_least(float x, float edge, int32_t then, int32_t otherwise) { return x >= edge ? then : otherwise; }
  static int32_t where_zero(float x, int32_t then, int32_t otherwise) { return x == 0 ? then : otherwise; }
  static int32_t negate_where_negative(int32_t i, float x) { return x < 0 ? -i : i; }
  static float positive_part(float value, float x) { return value < 0 ? 0.0f : x; }
  static void store_codes(uint8_t *to, int32_t code) { *to = static_cast<uint8_t>(code); }
  static void expand(const uint8_t *codes, const float *map, const uint8_t *, float absmax, float *values) {
    for (int64_t i = 0; i < kStateBlock; ++i) values[i] = map[codes[i]] * absmax;
  }
};

constexpr decltype(&steps_scalar) kSteps[] = QUATRO_TWINS(steps);

StepKernel kernel_of(const StepKernels &kernels, int rule, int bits) {
  if (rule == QUATRO_ADAMW) return bits == 8 ? kernels.adamw8 : kernels.adamw32;
  return bits == 8 ? kernels.lion8 : kernels.lion32;
}

bool valid(const quatro_update &u, int rule, int bits) {
  const bool second = rule == QUATRO_ADAMW;
  if (!valid_count(u.count) || !floats(u.parameter) || !floats(u.gradient)) return false;
  if (bits == 32) return floats(static_cast<const float *>(u.first)) && (!second || floats(static_cast<const float *>(u.second)));
  return u.first && floats(u.first_absmax) && (!second || (u.second && floats(u.second_absmax)));
}

bool valid(const quatro_dynamic_map *maps, int bits) {
  return bits == 32 || (maps && floats(maps[0].values) && floats(maps[1].values));
}

void to_planes(const float *values, uint8_t *planes) {
  for (int code = 0; code < 256; ++code) {
    uint32_t bits;
    std::memcpy(&bits, values + code, sizeof bits);
    for (int plane = 0; plane < 4; ++plane) planes[plane * 256 + code] = static_cast<uint8_t>(bits >> (8 * plane));
  }
}

}  // namespace

StepKernels steps_scalar() { return steps_of<One>(); }

}  // namespace quatro

using namespace quatro;

extern "C" int quatro_optimizer_step(const struct quatro_update *updates, int64_t count, int rule, int bits,
                                     const struct quatro_dynamic_map *maps, int isa, int threads) {
  if (!valid_isa(isa)) return QUATRO_BAD_ISA;
  if ((rule != QUATRO_ADAMW && rule != QUATRO_LION) || (bits != 8 && bits != 32) || !valid_threads(threads) || count < 0 ||
      (count && !updates) || !valid(maps, bits))
    return QUATRO_BAD_ARGUMENT;
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!valid(updates[i], rule, bits)) return QUATRO_BAD_ARGUMENT;
    blocks += (updates[i].count + kStateBlock - 1) / kStateBlock;
  }
  alignas(64) uint8_t planes[kMaps][4 * 256];
  OptimizerJob job = {updates, maps, {planes[0], planes[1]}};
  for (int m = 0; bits == 8 && m < kMaps; ++m) to_planes(maps[m].values, planes[m]);
  const StepKernel kernel = kernel_of(kSteps[isa](), rule, bits);
  for_ranges(blocks, useful_threads(blocks * kStateBlock, threads), [&](int64_t first, int64_t last) {
    int64_t before = 0;  // blocks of the updates so far
    for (int64_t i = 0; i < count && before < last; ++i) {
      const int64_t own = (updates[i].count + kStateBlock - 1) / kStateBlock;
      const int64_t begin = std::max<int64_t>(first - before, 0), end = std::min(last - before, own);
      if (begin < end)
        kernel(job, updates[i], begin * kStateBlock, std::min(end * kStateBlock, updates[i].count));
      before += own;
    }
  });
  return QUATRO_OK;
}
