// Dense 16-bit weights, one product at a time: the twin that the SIMD files equal to the bit.
#include "dense.h"

#include <cmath>

#include "convert.h"
#include "quatro.h"

namespace quatro {
namespace {

template <class Format>
float dot(const uint16_t *w, const float *x, int64_t count) {
  float lanes[kDenseLanes] = {};
  for (int64_t begin = 0; begin < count; begin += kDenseLanes)
    for (int64_t lane = 0; lane < kDenseLanes; ++lane) {
      const int64_t i = begin + lane;
      lanes[lane] = std::fma(i < count ? Format::load(w[i]) : 0.0f, i < count ? x[i] : 0.0f, lanes[lane]);
    }
  for (int64_t half = kDenseLanes / 2; half; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

}  // namespace

void dense_scalar(const DenseJob &job, int64_t first, int64_t last) {
  const auto product = job.dtype == QUATRO_BF16 ? dot<BFloat16> : dot<Float16>;
  for (int64_t n = first; n < last; ++n)
    for (int64_t t = 0; t < job.rows; ++t) {
      const float y = product(job.weight + n * job.inputs, job.x + t * job.inputs, job.inputs);
      job.out[t * job.outputs + n] = job.bias ? y + job.bias[n] : y;
    }
}

}  // namespace quatro
