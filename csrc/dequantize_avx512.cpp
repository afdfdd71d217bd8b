// 4-bit codes back to weights with AVX512. The table is scaled and rounded once a block; then a weight is a lookup.
#include <immintrin.h>

#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

template <bool stream>
void store(void *out, __m512i values) {
  if (stream)
    _mm512_stream_si512(static_cast<__m512i *>(out), values);
  else
    _mm512_storeu_si512(out, values);
}

// 16 floats. A lookup reads the low 4 bits of each of 16 indices, so nibbles need no mask: an index takes the 8 bits that
// begin at its nibble.
class Floats {
 public:
  static constexpr int64_t kStep = 16, kBytes = 4;

  explicit Floats(__m512 scaled) : values_(scaled) {}

  __m512i lookup(const uint8_t *codes) const {
    int64_t eight;
    __builtin_memcpy(&eight, codes, sizeof eight);
    return _mm512_castps_si512(
        _mm512_permutexvar_ps(_mm512_multishift_epi64_epi8(starts(), _mm512_set1_epi64(eight)), values_));
  }

 private:
  static __m512i starts() {  // pair p of weights in byte p: the high nibble for the low index
    const auto pair = [](int64_t p) { return 8 * p << 32 | (8 * p + 4); };
    return _mm512_setr_epi64(pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7));
  }

  __m512 values_;
};

// 16 half-width values, twice, because a lookup of 32 reads 5 bits: the fifth is whatever stands beside the nibble.
class Halves {
 public:
  static constexpr int64_t kStep = 32, kBytes = 2;

  explicit Halves(__m256i scaled) : values_(_mm512_broadcast_i64x4(scaled)) {}

  __m512i lookup(const uint8_t *codes) const {
    const __m512i sixteen = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(codes)));
    return _mm512_permutexvar_epi16(_mm512_srlv_epi16(_mm512_shuffle_epi8(sixteen, twice()), shifts()), values_);
  }

 private:
  static __m512i twice() {  // word w takes byte w / 2
    const auto four = [](int64_t p) { return p * 0x01010101 | (p + 1) * 0x0101010100000000; };
    return _mm512_setr_epi64(four(0), four(2), four(4), four(6), four(8), four(10), four(12), four(14));
  }
  static __m512i shifts() { return _mm512_set1_epi32(4); }  // the first weight of a byte stands high

  __m512i values_;
};

struct WideFloat32 {
  using Table = Floats;
  static Table round(__m512 x) { return Table(x); }
};

struct WideBFloat16 {
  using Table = Halves;
  static Table round(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return Table(_mm512_cvtepi32_epi16(_mm512_mask_set1_epi32(_mm512_srli_epi32(up, 16), nan, 0x7fc0)));
  }
};

struct WideFloat16 {
  using Table = Halves;
  static Table round(__m512 x) { return Table(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
};

template <class Format, bool stream>
void dequantize(const DequantizeJob &job, int64_t first, int64_t last) {
  using Table = typename Format::Table;
  const __m512 table = _mm512_loadu_ps(job.table);
  for (int64_t b = first; b < last; ++b) {
    const __m512 shifted = job.zeros ? _mm512_sub_ps(table, _mm512_set1_ps(job.zeros[b])) : table;
    const Table values = Format::round(_mm512_mul_ps(shifted, _mm512_set1_ps(job.scales[b])));
    const uint8_t *codes = job.codes + b * job.block / 2;
    char *out = static_cast<char *>(job.out) + b * job.block * Table::kBytes;
    for (int64_t i = 0; i < job.block; i += Table::kStep)
      store<stream>(out + i * Table::kBytes, values.lookup(codes + i / 2));
  }
  if (stream) _mm_sfence();
}

template <class Format>
void dequantize(const DequantizeJob &job, int64_t first, int64_t last) {
  return job.stream ? dequantize<Format, true>(job, first, last) : dequantize<Format, false>(job, first, last);
}

}  // namespace

void dequantize_avx512(const DequantizeJob &job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case QUATRO_BF16: return dequantize<WideBFloat16>(job, first, last);
    case QUATRO_F16: return dequantize<WideFloat16>(job, first, last);
    default: return dequantize<WideFloat32>(job, first, last);
  }
}

}  // namespace quatro
