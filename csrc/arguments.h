// What arguments must be before a pointer is followed. Internal linkage.
#ifndef QUATRO_ARGUMENTS_H
#define QUATRO_ARGUMENTS_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpu.h"
#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 48, kLargestBlock = 1 << 16;
constexpr int64_t kWeightsPerThread = 1 << 15;  // waking a thread costs about what this many weights take
constexpr int kMostThreads = 1024;

inline bool aligned(const void *pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }
inline bool floats(const float *pointer) { return pointer && aligned(pointer, alignof(float)); }
inline bool valid_dtype(int dtype) { return dtype == QUATRO_F32 || dtype == QUATRO_BF16 || dtype == QUATRO_F16; }
inline size_t width(int dtype) { return dtype == QUATRO_F32 ? 4 : 2; }
inline bool numbers(const void *pointer, int dtype) { return pointer && aligned(pointer, width(dtype)); }
inline bool valid_threads(int threads) { return threads >= 1 && threads <= kMostThreads; }
inline bool valid_block(int64_t block) { return block > 0 && block <= kLargestBlock && block % kUnit == 0; }
inline bool valid_count(int64_t n) { return n >= 0 && n <= kMostElements; }
inline bool valid_isa(int isa) { return isa >= QUATRO_SCALAR && isa <= best_isa(); }
inline bool finite(const float *values, int count) {
  return std::all_of(values, values + count, [](float x) { return std::isfinite(x); });
}

inline int useful_threads(int64_t work, int threads) {
  return static_cast<int>(std::min<int64_t>(threads, std::max<int64_t>(1, work / kWeightsPerThread)));
}

}  // namespace

// The kernels of each instruction set, by quatro_isa.
#if defined(QUATRO_X86)
#define QUATRO_TWINS(name) {name##_scalar, name##_avx2, name##_avx512}
#else
#define QUATRO_TWINS(name) {name##_scalar, name##_scalar, name##_scalar}
#endif

}  // namespace quatro

#endif
