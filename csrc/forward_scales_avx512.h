// The scales and zeros of a forward group, turned so that a vector holds those of 16 outputs. Internal linkage.
#ifndef QUATRO_FORWARD_SCALES_AVX512_H
#define QUATRO_FORWARD_SCALES_AVX512_H

#include "product_avx512.h"

namespace quatro {
namespace {

inline void transpose(__m512i (&r)[4]) {  // 4 x 4 dwords in every 128 bits
  const __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
  const __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
  r[0] = _mm512_unpacklo_epi64(a, c), r[1] = _mm512_unpackhi_epi64(a, c);
  r[2] = _mm512_unpacklo_epi64(b, d), r[3] = _mm512_unpackhi_epi64(b, d);
}

// 16 bytes from each of four places. Masked broadcasts, because they need no shuffle.
inline __m512i four_times_16(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d) {
  const auto load = [](const uint8_t *at) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(at)); };
  __m512i all = _mm512_broadcast_i32x4(load(a));
  all = _mm512_mask_broadcast_i32x4(all, 0x00f0, load(b));
  all = _mm512_mask_broadcast_i32x4(all, 0x0f00, load(c));
  return _mm512_mask_broadcast_i32x4(all, 0xf000, load(d));
}

// The rows of 16 outputs in an array of `per_row` numbers each; past the last output the last one stands in.
struct SixteenRows {
  SixteenRows(int64_t first, int64_t outputs, int64_t per_row) {
    for (int64_t i = 0; i < 16; ++i) start[i] = (first + i < outputs ? first + i : outputs - 1) * per_row;
  }
  int64_t start[16];
};

// 256 floats, looked up 64 at a time: each of their four bytes is a table of bytes.
class FloatOfByte {
 public:
  explicit FloatOfByte(const float *map) {
    for (int i = 0; i < 256; i += 16) {
      const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(map + i));
      unrolled<4>([&](auto byte) QUATRO_INLINE {
        const __m512i shifted = _mm512_srli_epi32(bits, 8 * byte);
        _mm_store_si128(reinterpret_cast<__m128i *>(bytes_[byte] + i), _mm512_cvtepi32_epi8(shifted));
      });
    }
  }

  // out[k]: floats 4k .. 4k+3 of the 16 codes in every 128 bits
  void look_up(__m512i codes, __m512i (&out)[4]) const {
    const __mmask64 upper = _mm512_movepi8_mask(codes);
    __m512i found[4];
    unrolled<4>([&](auto byte) QUATRO_INLINE {
      const uint8_t *table = bytes_[byte];
      const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(table), codes, _mm512_load_si512(table + 64)),
                    high = _mm512_permutex2var_epi8(_mm512_load_si512(table + 128), codes, _mm512_load_si512(table + 192));
      found[byte] = _mm512_mask_blend_epi8(upper, low, high);
    });
    const __m512i a = _mm512_unpacklo_epi8(found[0], found[1]), b = _mm512_unpackhi_epi8(found[0], found[1]);
    const __m512i c = _mm512_unpacklo_epi8(found[2], found[3]), d = _mm512_unpackhi_epi8(found[2], found[3]);
    out[0] = _mm512_unpacklo_epi16(a, c), out[1] = _mm512_unpackhi_epi16(a, c);
    out[2] = _mm512_unpacklo_epi16(b, d), out[3] = _mm512_unpackhi_epi16(b, d);
  }

 private:
  alignas(64) uint8_t bytes_[4][256];
};

// What the nested scales of 16 outputs are multiplied with: the first of each, then the second of each, and so on.
class GroupAbsmax {
 public:
  GroupAbsmax(const Weight &weight, const SixteenRows &rows)
      : first_(weight.group_absmax + rows.start[0] / weight.group), size_(_mm512_set1_epi32(static_cast<int>(weight.group))) {
    alignas(64) int32_t group[16], left[16];
    for (int i = 0; i < 16; ++i) {
      group[i] = static_cast<int32_t>(rows.start[i] / weight.group - rows.start[0] / weight.group);
      left[i] = static_cast<int32_t>(weight.group - rows.start[i] % weight.group);
    }
    group_ = _mm512_load_si512(group), left_ = _mm512_load_si512(left);
    absmax_ = _mm512_i32gather_ps(group_, first_, 4);
  }

  __m512 next() {
    const __mmask16 ended = _mm512_testn_epi32_mask(left_, left_);
    if (ended) {
      group_ = _mm512_mask_add_epi32(group_, ended, group_, _mm512_set1_epi32(1));
      left_ = _mm512_mask_mov_epi32(left_, ended, size_);
      absmax_ = _mm512_mask_i32gather_ps(absmax_, ended, group_, first_, 4);
    }
    left_ = _mm512_sub_epi32(left_, _mm512_set1_epi32(1));
    return absmax_;
  }

 private:
  const float *first_;
  __m512i size_, group_, left_;  // left: scales before the group ends
  __m512 absmax_;
};

// Nested scales of 16 outputs to out[at * stride].
inline void turn_nested(const Weight &weight, const FloatOfByte &map, const SixteenRows &rows, int64_t per_row, float *out,
                        int64_t stride) {
  GroupAbsmax absmax(weight, rows);
  const __m512 mean = _mm512_set1_ps(weight.mean);
  for (int64_t at = 0; at < per_row; at += 16) {
    const int64_t count = per_row - at < 16 ? per_row - at : 16;
    __m512i floats[4][4];  // [q][k]: scales 4k .. 4k+3 of outputs q, 4 + q, 8 + q, 12 + q
    for (int q = 0; q < 4; ++q) {
      const uint8_t *places[4];
      alignas(16) uint8_t last[4][16];
      for (int lane = 0; lane < 4; ++lane) {
        places[lane] = weight.nested + rows.start[4 * lane + q] + at;
        if (count == 16) continue;
        __builtin_memcpy(last[lane], places[lane], static_cast<size_t>(count));
        places[lane] = last[lane];
      }
      map.look_up(four_times_16(places[0], places[1], places[2], places[3]), floats[q]);
    }
    for (int k = 0; k < 4 && 4 * k < count; ++k) {
      __m512i scales[4] = {floats[0][k], floats[1][k], floats[2][k], floats[3][k]};
      transpose(scales);
      for (int i = 0; i < 4 && 4 * k + i < count; ++i)
        _mm512_storeu_ps(out + (at + 4 * k + i) * stride,
                         _mm512_add_ps(_mm512_mul_ps(_mm512_castsi512_ps(scales[i]), absmax.next()), mean));
    }
  }
}

// Floats of 16 outputs to out[at * stride], times a factor.
inline void turn_plain(const float *numbers, const SixteenRows &rows, int64_t per_row, float factor, float *out, int64_t stride) {
  for (int64_t at = 0; at < per_row; at += 4) {
    const __mmask8 mask = per_row - at < 4 ? static_cast<__mmask8>((1u << (per_row - at)) - 1) : 0xf;
    __m512i r[4];
    for (int q = 0; q < 4; ++q) {
      r[q] = _mm512_castsi128_si512(_mm_maskz_loadu_epi32(mask, numbers + rows.start[q] + at));
      r[q] = _mm512_inserti32x4(r[q], _mm_maskz_loadu_epi32(mask, numbers + rows.start[4 + q] + at), 1);
      r[q] = _mm512_inserti32x4(r[q], _mm_maskz_loadu_epi32(mask, numbers + rows.start[8 + q] + at), 2);
      r[q] = _mm512_inserti32x4(r[q], _mm_maskz_loadu_epi32(mask, numbers + rows.start[12 + q] + at), 3);
    }
    transpose(r);
    for (int i = 0; i < 4 && at + i < per_row; ++i)
      _mm512_storeu_ps(out + (at + i) * stride, _mm512_mul_ps(_mm512_castsi512_ps(r[i]), _mm512_set1_ps(factor)));
  }
}

}  // namespace
}  // namespace quatro

#endif
