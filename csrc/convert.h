// float32 <-> bfloat16 and float16, round to nearest even: twins of vcvtps2ph, vcvtph2ps and the bf16 shifts.
#ifndef QUATRO_CONVERT_H
#define QUATRO_CONVERT_H

#include <cstdint>
#include <cstring>

namespace {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Float32 {
  using Stored = float;
  static float load(float stored) { return stored; }
  static float store(float value) { return value; }
};

struct BFloat16 {
  using Stored = uint16_t;
  static float load(uint16_t stored) { return float_of(uint32_t{stored} << 16); }
  static uint16_t store(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

struct Float16 {
  using Stored = uint16_t;

  static float load(uint16_t stored) {
    const uint32_t sign = uint32_t{stored & 0x8000u} << 16, exponent = (stored >> 10) & 31u, mantissa = stored & 0x3ffu;
    if (exponent == 31) return float_of(sign | 0x7f800000u | (mantissa ? 0x400000u | mantissa << 13 : 0));
    if (exponent == 0) return float_of(sign | bits_of(static_cast<float>(mantissa) * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
  }

  static uint16_t store(float value) {
    const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    return static_cast<uint16_t>(sign | rounded(magnitude));
  }

 private:
  static uint32_t rounded(uint32_t magnitude) {
    if (magnitude > 0x7f800000u) return 0x7e00u | (magnitude >> 13 & 0x3ffu);
    if (magnitude >= 0x47800000u) return 0x7c00u;  // 2^16 and more
    // Below 2^-14 the result is a count of 2^-24: the spacing of floats from a half on, so an addition rounds it.
    if (magnitude < 0x38800000u) return bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    return (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
};

}  // namespace

#endif
