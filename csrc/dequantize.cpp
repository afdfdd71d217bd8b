// 4-bit codes back to weights, one at a time: the twin of the SIMD files and the path of the ragged last block.
#include <algorithm>

#include "convert.h"
#include "kernels.h"
#include "quatro.h"

namespace quatro {
namespace {

template <class Format>
void dequantize(const DequantizeJob &job, int64_t first, int64_t last) {
  auto *out = static_cast<typename Format::Stored *>(job.out);
  for (int64_t b = first; b < last; ++b) {
    const int64_t begin = b * job.block, end = std::min(job.count, begin + job.block);
    const float zero = job.zeros ? job.zeros[b] : 0.0f;
    typename Format::Stored values[16];
    for (int code = 0; code < 16; ++code) values[code] = Format::store((job.table[code] - zero) * job.scales[b]);
    for (int64_t i = begin; i < end; ++i) out[i] = values[job.codes[i / 2] >> (i % 2 ? 0 : 4) & 15];
  }
}

}  // namespace

void dequantize_scalar(const DequantizeJob &job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case QUATRO_BF16: return dequantize<BFloat16>(job, first, last);
    case QUATRO_F16: return dequantize<Float16>(job, first, last);
    default: return dequantize<Float32>(job, first, last);
  }
}

}  // namespace quatro
