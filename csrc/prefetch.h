// Memory asked for before it is needed. Internal linkage. Always inlined, because GCC drops calls of functions that only prefetch.
#ifndef QUATRO_PREFETCH_H
#define QUATRO_PREFETCH_H

#include <xmmintrin.h>

#include "product.h"
#include "unrolled.h"

namespace quatro {
namespace {

QUATRO_INLINE inline void ask_for(const void *memory, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(static_cast<const char *>(memory) + i, _MM_HINT_T1);
}

// The scales of a group of 32 outputs. They lie together, so that nothing else would bring them in time.
QUATRO_INLINE inline void ask_for_scales(const Weight &weight, int64_t first, int64_t per_row) {
  if (first >= weight.outputs) return;
  const int64_t rows = weight.outputs - first < kForwardOutputs ? weight.outputs - first : kForwardOutputs;
  const int64_t begin = first * per_row, count = rows * per_row;
  if (weight.absmax)
    ask_for(weight.absmax + begin, 4 * count);
  else
    ask_for(weight.nested + begin, count);
  if (weight.zeros) ask_for(weight.zeros + begin, 4 * count);
}

}  // namespace
}  // namespace quatro

#endif
