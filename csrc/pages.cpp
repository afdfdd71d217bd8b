// Huge pages for memory that is about to be written for the first time: a page fault then brings 2 MiB and not 4 KiB.
#include "quatro.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

extern "C" int quatro_prepare_pages(void *memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHuge = int64_t{2} << 20;
  if (!memory || bytes < 2 * kHuge) return 0;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / page * page;
  return madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE) == 0;
#else
  (void)memory, (void)bytes;
  return 0;
#endif
}
