// What an optimizer's step is told, and who the kernels are. Plain data only, as in kernels.h.
#ifndef QUATRO_OPTIMIZER_H
#define QUATRO_OPTIMIZER_H

#include <cstdint>

#include "quatro.h"

namespace quatro {

constexpr int64_t kStateBlock = 256;  // 8-bit states that share a scale; steps are dealt out to threads in such blocks
constexpr int kMaps = 2;              // 0: signed, for the first moment; 1: unsigned, for the second

struct OptimizerJob {
  const quatro_update *updates;
  const quatro_dynamic_map *maps;
  const uint8_t *planes[kMaps];  // the maps' values as four planes of 256 bytes
};

// Elements [first, last) of one update; first is a multiple of kStateBlock, and so is last unless it is the end.
using StepKernel = void (*)(const OptimizerJob &job, const quatro_update &update, int64_t first, int64_t last);

struct StepKernels {
  StepKernel adamw32, adamw8, lion32, lion8;
};

StepKernels steps_scalar();
StepKernels steps_avx2();
StepKernels steps_avx512();

}  // namespace quatro

#endif
