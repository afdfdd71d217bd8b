// Loops whose index is a constant in every turn, so that arrays indexed by it live in registers. Internal linkage.
#ifndef QUATRO_UNROLLED_H
#define QUATRO_UNROLLED_H

#include <utility>

namespace quatro {
namespace {

template <class Body, int... index>
[[gnu::always_inline]] inline void unrolled(const Body &body, std::integer_sequence<int, index...>) {
  (body(std::integral_constant<int, index>{}), ...);
}

// body(0), ..., body(turns - 1); the body is a lambda marked QUATRO_INLINE that takes an `auto`.
template <int turns, class Body>
[[gnu::always_inline]] inline void unrolled(const Body &body) {
  unrolled(body, std::make_integer_sequence<int, turns>{});
}

}  // namespace
}  // namespace quatro

#define QUATRO_INLINE __attribute__((always_inline))

#endif
