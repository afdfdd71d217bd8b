// Whether memory is fresh, asked of its middle page, and huge pages for it if so.
#include "pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace quatro {

#if defined(__linux__) && defined(MADV_HUGEPAGE)

bool prepare_fresh(void *memory, int64_t bytes) {
  constexpr int64_t kWorthwhile = int64_t{4} << 20;
  if (bytes < kWorthwhile) return false;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<uintptr_t>(memory), end = start + static_cast<uintptr_t>(bytes);
  const uintptr_t first = (start + page - 1) / page * page, last = end / page * page;
  unsigned char resident = 1;
  if (mincore(reinterpret_cast<void *>((first + last) / 2 / page * page), page, &resident) != 0 || resident & 1)
    return false;
  madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);  // a hint: without it pages are small
  return true;
}

#else

bool prepare_fresh(void *, int64_t) { return false; }

#endif

}  // namespace quatro
