// CPUID says what the processor has, XGETBV which registers the operating system saves: an instruction set needs both.
#include "cpu.h"

#include "quatro.h"

#if defined(QUATRO_X86)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <unistd.h>
#endif

namespace quatro {
namespace {

#if defined(QUATRO_X86)

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
  explicit Leaf(unsigned number) { __get_cpuid_count(number, 0, &a, &b, &c, &d); }
};

constexpr bool all(unsigned flags, unsigned wanted) { return (flags & wanted) == wanted; }
constexpr unsigned bit(int index) { return 1u << index; }

unsigned saved_registers() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

int detect() {
  const Leaf one(1), seven(7);
  const unsigned osxsave = bit(27), avx = bit(28), fma = bit(12), f16c = bit(29);
  if (!all(one.c, osxsave | avx | fma | f16c)) return QUATRO_SCALAR;
  const unsigned saved = saved_registers(), vector_state = 0x06, mask_state = 0xe0;
  const unsigned avx2 = bit(5), f = bit(16), dq = bit(17), bw = bit(30), vl = bit(31), vbmi = bit(1), vnni = bit(11);
  if (!all(saved, vector_state) || !all(seven.b, avx2)) return QUATRO_SCALAR;
  if (!all(saved, mask_state) || !all(seven.b, f | dq | bw | vl) || !all(seven.c, vbmi | vnni)) return QUATRO_AVX2;
  return QUATRO_AVX512;
}

#else

int detect() { return QUATRO_SCALAR; }

#endif

int64_t cache_bytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return int64_t{32} << 20;
}

}  // namespace

int best_isa() {
  static const int found = detect();
  return found;
}

int64_t last_level_cache_bytes() {
  static const int64_t found = cache_bytes();
  return found;
}

}  // namespace quatro
