// The steps of AdamW and Lion over any width of lanes: each float operation is rounded once, so all widths give the same bits.
// Internal linkage: it is compiled under several instruction sets.
#ifndef QUATRO_OPTIMIZER_STEPS_H
#define QUATRO_OPTIMIZER_STEPS_H

#include <algorithm>
#include <cstring>

#include "optimizer.h"
#include "unrolled.h"

namespace quatro {
namespace {

constexpr float kLeastAbsmax = 1e-38f;  // states are not divided by less

// Both moments of AdamW (arXiv 1711.05101), and the parameter.
template <class V>
struct AdamW {
  using Floats = typename V::Floats;
  static constexpr int kStates = 2;

  explicit AdamW(const quatro_update &u)
      : keep(V::all(u.keep)), rest1(V::all(u.rest1)), beta2(V::all(u.beta2)), rest2(V::all(u.rest2)), unbias(V::all(u.unbias)), epsilon(V::all(u.epsilon)), rate(V::all(u.rate)) {}

  QUATRO_INLINE Floats operator()(Floats p, Floats g, Floats *states) const {
    Floats &m = states[0], &v = states[1];
    m = V::add(m, V::mul(V::sub(g, m), rest1));
    v = V::add(V::mul(v, beta2), V::mul(V::mul(g, g), rest2));
    const Floats spread = V::add(V::mul(V::sqrt(v), unbias), epsilon);
    return V::sub(V::mul(p, keep), V::mul(V::div(m, spread), rate));
  }

  Floats keep, rest1, beta2, rest2, unbias, epsilon, rate;
};

// Lion (arXiv 2302.06675): the sign of a mean of gradient and momentum.
template <class V>
struct Lion {
  using Floats = typename V::Floats;
  static constexpr int kStates = 1;

  explicit Lion(const quatro_update &u)
      : keep(V::all(u.keep)), beta1(V::all(u.beta1)), rest1(V::all(u.rest1)), beta2(V::all(u.beta2)), rest2(V::all(u.rest2)),
        rate(V::all(u.rate)) {}

  QUATRO_INLINE Floats operator()(Floats p, Floats g, Floats *states) const {
    Floats &m = states[0];
    const Floats mean = V::add(V::mul(m, beta1), V::mul(g, rest1));
    m = V::add(V::mul(m, beta2), V::mul(g, rest2));
    return V::sub(V::mul(p, keep), V::sign(mean, rate));
  }

  Floats keep, beta1, rest1, beta2, rest2, rate;
};

template <class V, template <class> class Rule>
QUATRO_INLINE inline void turn(const Rule<V> &rule, float *p, const float *g, float *const *states) {
  typename V::Floats now[Rule<V>::kStates];
  for (int s = 0; s < Rule<V>::kStates; ++s) now[s] = V::load(states[s]);
  V::store(p, rule(V::load(p), V::load(g), now));
  for (int s = 0; s < Rule<V>::kStates; ++s) V::store(states[s], now[s]);
}

template <class V, template <class> class Rule>
void step32(const OptimizerJob &, const quatro_update &u, int64_t first, int64_t last) {
  constexpr int kStates = Rule<V>::kStates, kLanes = V::kLanes;
  const Rule<V> rule(u);
  float *const moments[] = {static_cast<float *>(u.first), static_cast<float *>(u.second)};
  int64_t i = first;
  for (; i + kLanes <= last; i += kLanes) {
    float *at[kStates];
    for (int s = 0; s < kStates; ++s) at[s] = moments[s] + i;
    turn<V>(rule, u.parameter + i, u.gradient + i, at);
  }
  if (i == last) return;
  float p[kLanes] = {}, g[kLanes] = {}, rest[kStates][kLanes] = {};
  float *at[kStates];
  const size_t bytes = static_cast<size_t>(last - i) * sizeof(float);
  std::memcpy(p, u.parameter + i, bytes);
  std::memcpy(g, u.gradient + i, bytes);
  for (int s = 0; s < kStates; ++s) std::memcpy(at[s] = rest[s], moments[s] + i, bytes);
  turn<V>(rule, p, g, at);
  std::memcpy(u.parameter + i, p, bytes);
  for (int s = 0; s < kStates; ++s) std::memcpy(moments[s] + i, rest[s], bytes);
}

// One state's codes of a block: read as map[code] * absmax; written by the decade that x = |value| / absmax is in, and the bin of
// it. Only an exact 0 takes the code of 0.
template <class V, bool is_signed>
class Codes {
 public:
  using Floats = typename V::Floats;
  using Ints = typename V::Ints;

  explicit Codes(const OptimizerJob &job)
      : map_(job.maps[!is_signed]), planes_(job.planes[!is_signed]), steps_(map_.steps), starts_(map_.starts) {}

  void read(const uint8_t *codes, float absmax, float *values) const {
    V::expand(codes, map_.values, planes_, absmax, values);
  }

  void write(const float *values, float absmax, uint8_t *codes) const {
    const Floats inverse = V::all(1.0f / std::max(absmax, kLeastAbsmax));
    for (int64_t i = 0; i < kStateBlock; i += V::kLanes) V::store_codes(codes + i, code(V::load(values + i), inverse));
  }

 private:
  QUATRO_INLINE Ints code(Floats value, Floats inverse) const {
    const Floats x = V::at_most(V::mul(V::abs(value), inverse), V::all(1.0f));
    Ints decade = V::ints(0);
    unrolled<6>([&](auto d) QUATRO_INLINE { decade = V::add_where_at_least(decade, x, V::all(map_.edges[d])); });
    const Ints bins = V::power_of_two(decade, is_signed ? 0 : 1);
    const Floats y = V::add(V::mul(x, steps_.pick(decade)), starts_.pick(decade));
    Ints bin = V::to_ints(V::at_least(y, V::all(0.0f)));
    bin = V::min(bin, V::sub(bins, V::ints(1)));
    if constexpr (is_signed) {
      const Ints magnitude = V::add(bins, bin);
      Ints found = V::negate_where_negative(magnitude, value);
      found = V::where_at_least(V::positive_part(value, x), V::all(map_.top), V::ints(128), found);
      return V::where_zero(value, V::ints(127), V::add(found, V::ints(127)));
    } else {
      Ints found = V::add(V::sub(bins, V::ints(1)), bin);
      found = V::where_at_least(x, V::all(map_.top), V::ints(255), found);
      return V::where_zero(value, V::ints(0), found);
    }
  }

  const quatro_dynamic_map &map_;
  const uint8_t *planes_;
  typename V::Picks steps_, starts_;
};

template <class V>
float largest(typename V::Floats lanes) {
  float all[V::kLanes];
  V::store(all, lanes);
  float found = 0.0f;
  for (float x : all) found = x > found ? x : found;
  return found;
}

template <class V, template <class> class Rule>
void step8(const OptimizerJob &job, const quatro_update &u, int64_t first, int64_t last) {
  constexpr int kStates = Rule<V>::kStates;
  const Rule<V> rule(u);
  const Codes<V, true> first_codes(job);
  const Codes<V, false> second_codes(job);
  auto *const codes0 = static_cast<uint8_t *>(u.first), *const codes1 = static_cast<uint8_t *>(u.second);
  alignas(64) float values[2][kStateBlock];
  for (int64_t begin = first; begin < last; begin += kStateBlock) {
    const int64_t count = std::min(kStateBlock, last - begin), block = begin / kStateBlock;
    float p_rest[kStateBlock], g_rest[kStateBlock];
    uint8_t codes_rest[2][kStateBlock];
    float *p = u.parameter + begin;
    const float *g = u.gradient + begin;
    uint8_t *c0 = codes0 + begin, *c1 = kStates > 1 ? codes1 + begin : nullptr;
    if (count < kStateBlock) {
      std::fill(p_rest, p_rest + kStateBlock, 0.0f);
      std::fill(g_rest, g_rest + kStateBlock, 0.0f);
      std::copy(p, p + count, p_rest);
      std::copy(g, g + count, g_rest);
      std::fill(codes_rest[0], codes_rest[0] + kStateBlock, uint8_t{127});
      std::copy(c0, c0 + count, codes_rest[0]);
      if (kStates > 1) {
        std::fill(codes_rest[1], codes_rest[1] + kStateBlock, uint8_t{0});
        std::copy(c1, c1 + count, codes_rest[1]);
      }
      p = p_rest, g = g_rest, c0 = codes_rest[0], c1 = codes_rest[1];
    }
    first_codes.read(c0, u.first_absmax[block], values[0]);
    if (kStates > 1) second_codes.read(c1, u.second_absmax[block], values[1]);
    typename V::Floats most[2] = {V::all(0.0f), V::all(0.0f)};
    for (int64_t i = 0; i < kStateBlock; i += V::kLanes) {
      float *at[kStates];
      for (int s = 0; s < kStates; ++s) at[s] = values[s] + i;
      turn<V>(rule, p + i, g + i, at);
      for (int s = 0; s < kStates; ++s) most[s] = V::larger(V::abs(V::load(values[s] + i)), most[s]);
    }
    first_codes.write(values[0], u.first_absmax[block] = largest<V>(most[0]), c0);
    if (kStates > 1) second_codes.write(values[1], u.second_absmax[block] = largest<V>(most[1]), c1);
    if (count < kStateBlock) {
      std::copy(p_rest, p_rest + count, u.parameter + begin);
      std::copy(c0, c0 + count, codes0 + begin);
      if (kStates > 1) std::copy(c1, c1 + count, codes1 + begin);
    }
  }
}

template <class V>
constexpr StepKernels steps_of() {
  return {step32<V, AdamW>, step8<V, AdamW>, step32<V, Lion>, step8<V, Lion>};
}

}  // namespace
}  // namespace quatro

#endif
