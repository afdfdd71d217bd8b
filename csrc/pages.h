// Memory as the system hands it out.
#ifndef QUATRO_PAGES_H
#define QUATRO_PAGES_H

#include <cstdint>

namespace quatro {

// For a large output that nothing has been written to yet, asks for huge pages and returns true: the first write to each page
// has the system clear it, which is cheaper by 2 MiB than by 4 KiB. False for memory in use, and where nobody can tell.
bool prepare_fresh(void *memory, int64_t bytes);

}  // namespace quatro

#endif
