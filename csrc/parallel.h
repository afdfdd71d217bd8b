// Ranges of blocks over threads, and the float rules that every range is computed under.
#ifndef QUATRO_PARALLEL_H
#define QUATRO_PARALLEL_H

#include <cstdint>

#include "fork.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(QUATRO_X86)
#include <xmmintrin.h>
#endif

namespace {

// Round to nearest, keep denormals: a caller's flush-to-zero must not change the bits on one thread of several.
class PlainFloats {
 public:
#if defined(QUATRO_X86)
  PlainFloats() : callers_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~PlainFloats() { _mm_setcsr(callers_); }

 private:
  unsigned callers_;
#else
  PlainFloats() {}
#endif
};

// body(first, last, share) on consecutive shares of [0, items). The shares depend on the number of threads alone.
template <class Body>
void for_shares(int64_t items, int threads, const Body &body) {
#if defined(_OPENMP)
  if (threads > 1 && !quatro::in_forked_child()) {
#pragma omp parallel num_threads(threads)
    {
      const PlainFloats rules;
      const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
      body(items * me / team, items * (me + 1) / team, me);
    }
    return;
  }
#endif
  (void)threads;
  const PlainFloats rules;
  body(int64_t{0}, items, int64_t{0});
}

template <class Body>
void for_ranges(int64_t items, int threads, const Body &body) {
  for_shares(items, threads, [&](int64_t first, int64_t last, int64_t) { body(first, last); });
}

}  // namespace

#endif
