// Activations to integers. Internal linkage: every instruction set compiles its own, from the same operations.
#ifndef QUATRO_INTEGER_ROWS_H
#define QUATRO_INTEGER_ROWS_H

#include "convert.h"
#include "product.h"

namespace quatro {
namespace {

constexpr uint32_t kMagnitudeMask = 0x7fffffffu, kInfinite = 0x7f800000u;
constexpr float kNearlyNothing = 0x1p-100f;  // beside a row's largest magnitude, which is brought to [1, 2)
constexpr float kRoundingBias = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer, ties to even

inline int32_t rounded(float value) {  // |value| < 2^21
  return static_cast<int32_t>(bits_of(value + kRoundingBias) - bits_of(kRoundingBias));
}

inline int exponent_of(uint32_t magnitude) {  // of a finite number that is not 0, denormals included
  return magnitude >> 23 ? static_cast<int>(magnitude >> 23) - 127 : 31 - __builtin_clz(magnitude) - 149;
}

inline float power_of_two(int exponent) {  // -149 .. 127
  return float_of(exponent >= -126 ? static_cast<uint32_t>(exponent + 127) << 23 : 1u << (exponent + 149));
}

// What brings a row's largest magnitude to [1, 2), in two steps because one may not be a float.
struct Normalizer {
  float first = 1.0f, second = 1.0f, back = 1.0f;
  explicit Normalizer(uint32_t magnitude) {
    if (magnitude == 0 || magnitude >= kInfinite) return;
    const int exponent = exponent_of(magnitude);
    first = power_of_two(-exponent / 2);
    second = power_of_two(-exponent - -exponent / 2);
    back = power_of_two(exponent);
  }
};

// Policy::load(job, begin, count, floats) reads stored numbers; Policy::store(integers, count, out) writes them as int16, in an
// order of its own within every 8.
template <class Policy, int unit>
class IntegerRow {
 public:
  IntegerRow(const RowsJob &job, int64_t row) : job_(job), row_(row) {}

  void write() const {
    alignas(64) float values[unit];
    uint32_t magnitude = 0;
    for (int64_t u = 0; u < job_.rows.units; ++u) {
      load(u, values);
      const uint32_t found = largest_magnitude(values);
      magnitude = found > magnitude ? found : magnitude;
    }
    const Normalizer normalizer(magnitude);
    const bool broken = magnitude >= kInfinite;
    job_.rows.powers[row_] = normalizer.back;
    for (int64_t u = 0; u < job_.rows.units; ++u) {
      load(u, values);
      for (float &value : values) value = broken ? 0.0f : value * normalizer.first * normalizer.second;
      write_unit(u, values);
      if (broken) job_.rows.scales[u * job_.rows.count + row_] = float_of(0x7fc00000u);
    }
  }

 private:
  void load(int64_t u, float (&values)[unit]) const {
    const int64_t begin = u * unit, rest = job_.width - begin, count = rest < unit ? rest : unit;
    Policy::load(job_, row_ * job_.width + begin, count, values);
    for (int64_t i = count; i < unit; ++i) values[i] = 0.0f;
  }

  static uint32_t largest_magnitude(const float (&values)[unit]) {
    uint32_t largest = 0;
    for (float value : values) {
      const uint32_t magnitude = bits_of(value) & kMagnitudeMask;
      largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
  }

  void write_unit(int64_t u, const float (&values)[unit]) const {
    const int64_t at = u * job_.rows.count + row_;
    const float absmax = float_of(largest_magnitude(values));
    const bool nothing = absmax < kNearlyNothing;
    const float inverse = nothing ? 0.0f : job_.full / absmax;
    alignas(64) int32_t integers[unit];
    for (int i = 0; i < unit; ++i) integers[i] = rounded(values[i] * inverse);
    Policy::store(integers, unit, job_.rows.values + at * unit);
    job_.rows.scales[at] = nothing ? 0.0f : absmax;
    if (!job_.rows.sums) return;
    int32_t sum = 0;
    for (int32_t integer : integers) sum += integer;
    job_.rows.sums[at] = static_cast<float>(sum);
  }

  const RowsJob &job_;
  int64_t row_;
};

template <class Policy>
void integer_rows(const RowsJob &job, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row)
    job.rows.unit == 64 ? IntegerRow<Policy, 64>(job, row).write() : IntegerRow<Policy, 32>(job, row).write();
}

}  // namespace
}  // namespace quatro

#endif
