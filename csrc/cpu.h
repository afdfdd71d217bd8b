// What this processor can do.
#ifndef QUATRO_CPU_H
#define QUATRO_CPU_H

#include <cstdint>

namespace quatro {

int best_isa();  // a quatro_isa
int64_t last_level_cache_bytes();

}  // namespace quatro

#endif
