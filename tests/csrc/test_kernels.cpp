// Drives every function of quatro.h: SIMD against the scalar twin on random ragged sizes, known numbers, bad arguments.
// Buffers have exactly the size that the interface asks for, so that a sanitizer sees every access beyond it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quatro.h"

namespace {

int failures = 0;

void expect(bool holds, const std::string &what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
const char *const kIsaNames[] = {"scalar", "avx2", "avx512"};
std::mt19937 randomness(7);

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }
template <class T>
bool same(const std::vector<T> &a, const std::vector<T> &b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

struct Table {
  std::vector<float> values, thresholds;
  std::vector<uint8_t> order;
  float full_scale = 1.0f;
};

// `count` ascending values from -1 to 1 at random distances; the largest has code 0, so that order is not the identity.
Table random_table(int count) {
  std::vector<float> ascending(count);
  std::uniform_real_distribution<float> step(0.1f, 1.0f);
  for (int i = 1; i < count; ++i) ascending[i] = ascending[i - 1] + step(randomness);
  for (float &value : ascending) value = 2.0f * value / ascending[count - 1] - 1.0f;
  Table table;
  table.values.assign(16, 0.0f), table.thresholds.assign(15, kInfinity), table.order.assign(16, 0);
  for (int i = 0; i < count; ++i) {
    table.order[i] = static_cast<uint8_t>(count - 1 - i);
    table.values[count - 1 - i] = ascending[i];
    if (i) table.thresholds[i - 1] = (ascending[i - 1] + ascending[i]) / 2;
  }
  return table;
}

Table affine_table() {
  Table table = random_table(16);
  for (int i = 0; i < 16; ++i) table.values[i] = static_cast<float>(i), table.order[i] = static_cast<uint8_t>(i);
  for (int i = 0; i < 15; ++i) table.thresholds[i] = static_cast<float>(i) + 0.5f;
  table.full_scale = 15.0f;
  return table;
}

// Bytes of n weights: normal numbers of very different sizes a block, zeros, denormals.
std::vector<uint8_t> random_weights(int64_t n, int dtype) {
  std::normal_distribution<float> normal;
  const float sizes[] = {1.0f, 1e-3f, 3e4f, 1e-40f, 0.0f, 1e-7f};
  std::vector<uint8_t> bytes(static_cast<size_t>(n) * (dtype == QUATRO_F32 ? 4 : 2));
  for (int64_t i = 0; i < n; ++i) {
    const float value = normal(randomness) * sizes[i / 40 % 6];
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t half =
        dtype == QUATRO_BF16 ? static_cast<uint16_t>(bits >> 16) : static_cast<uint16_t>(randomness() % 0x7c00);
    if (dtype == QUATRO_F32)
      std::memcpy(&bytes[i * 4], &bits, 4);
    else
      std::memcpy(&bytes[i * 2], &half, 2);
  }
  return bytes;
}

struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> scales, zeros;
  int64_t first_bad = 0;
  int status = 0;
  bool operator==(const Quantized &o) const {
    const bool alike = same(codes, o.codes) && same(scales, o.scales) && same(zeros, o.zeros);
    return status == o.status && first_bad == o.first_bad && (status || alike);
  }
};

Quantized quantize(const std::vector<uint8_t> &w, int dtype, int64_t n, int64_t block, const Table &table, bool affine,
                   int isa, int threads) {
  const auto blocks = static_cast<size_t>(blocks_of(n, block));
  Quantized q;
  q.codes.assign(static_cast<size_t>((n + 1) / 2), 0xee);
  q.scales.assign(blocks, kNaN);
  q.zeros.assign(affine ? blocks : 0, kNaN);
  q.status =
      quatro_quantize(w.data(), dtype, n, block, table.thresholds.data(), table.order.data(), table.full_scale,
                      q.codes.data(), q.scales.data(), affine ? q.zeros.data() : nullptr, &q.first_bad, isa, threads);
  return q;
}

std::vector<uint8_t> dequantize(const Quantized &q, int64_t n, int64_t block, const Table &table, int dtype, int isa,
                                int threads) {
  std::vector<uint8_t> out(static_cast<size_t>(n) * (dtype == QUATRO_F32 ? 4 : 2), 0xff);
  const int status = quatro_dequantize(q.codes.data(), n, block, table.values.data(), q.scales.data(),
                                       q.zeros.empty() ? nullptr : q.zeros.data(), out.data(), dtype, isa, threads);
  expect(status == QUATRO_OK, "dequantize returns ok");
  return out;
}

void weights_agree_across_instruction_sets() {
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t block = int64_t{32} << randomness() % 8, n = 1 + randomness() % (trial % 10 ? 9000 : 140000);
    const int dtype = trial % 3, out_dtype = trial / 3 % 3, threads = 1 + trial % 4;
    const bool affine = trial % 4 == 3;
    const Table table = affine ? affine_table() : random_table(2 + trial % 15);
    const std::vector<uint8_t> w = random_weights(n, dtype);
    const Quantized scalar = quantize(w, dtype, n, block, table, affine, QUATRO_SCALAR, 1);
    expect(scalar.status == QUATRO_OK && scalar.first_bad == -1, "finite weights are accepted");
    for (int isa = 0; isa <= quatro_best_isa(); ++isa) {
      const std::string where = std::string(kIsaNames[isa]) + " n=" + std::to_string(n) +
                                " block=" + std::to_string(block) + " dtype=" + std::to_string(dtype) +
                                " affine=" + std::to_string(affine);
      expect(quantize(w, dtype, n, block, table, affine, isa, threads) == scalar, "quantize equals its twin, " + where);
      expect(same(dequantize(scalar, n, block, table, out_dtype, isa, threads),
                  dequantize(scalar, n, block, table, out_dtype, 0, 1)),
             "dequantize equals its twin, " + where);
    }
  }
}

// Scales of a broken checkpoint: the cast to 16 bits must round, overflow and keep NaN alike everywhere.
void odd_scales_agree() {
  constexpr int64_t kBlocks = 512;
  Quantized q;
  for (int64_t i = 0; i < 16 * kBlocks; ++i) q.codes.push_back(static_cast<uint8_t>(i % 16 << 4 | (15 - i % 16)));
  for (int b = 0; b < kBlocks; ++b) q.scales.push_back(std::ldexp(1.0f + static_cast<float>(b % 97) / 97, b - 256));
  const float odd[] = {kInfinity, -kInfinity, kNaN, 65504.0f, 65519.0f, 65520.0f, -0.0f};
  std::copy(std::begin(odd), std::end(odd), q.scales.begin());
  const Table table = affine_table();
  for (int dtype = 0; dtype < 3; ++dtype)
    for (int isa = 0; isa <= quatro_best_isa(); ++isa)
      expect(same(dequantize(q, 32 * kBlocks, 32, table, dtype, isa, 1),
                  dequantize(q, 32 * kBlocks, 32, table, dtype, 0, 1)),
             std::string("odd scales, ") + kIsaNames[isa] + " dtype=" + std::to_string(dtype));
}

// Larger than any cache is believed to keep: the path that writes around them, and the one for memory not touched before.
void large_outputs_agree() {
  const int64_t n = (int64_t{13} << 18) + 77;
  const Table table = random_table(16);
  const Quantized q = quantize(random_weights(n, QUATRO_F32), QUATRO_F32, n, 64, table, false, QUATRO_SCALAR, 2);
  const std::vector<uint8_t> expected = dequantize(q, n, 64, table, QUATRO_F32, QUATRO_SCALAR, 2);
  for (int isa = 0; isa <= quatro_best_isa(); ++isa) {
    const std::string where = kIsaNames[isa];
    expect(same(dequantize(q, n, 64, table, QUATRO_F32, isa, 2), expected), "streamed output, " + where);
    const std::unique_ptr<float[]> fresh(new float[n]);
    quatro_dequantize(q.codes.data(), n, 64, table.values.data(), q.scales.data(), nullptr, fresh.get(), QUATRO_F32,
                      isa, 2);
    expect(std::memcmp(fresh.get(), expected.data(), expected.size()) == 0, "output in fresh memory, " + where);
  }
}

void known_numbers_come_out() {
  const Table table = random_table(16);
  for (int isa = 0; isa <= quatro_best_isa(); ++isa) {
    std::vector<uint8_t> bytes(65 * 4);
    std::vector<float> w(65);
    for (int i = 0; i < 65; ++i) w[i] = 8.0f * table.values[i % 16];
    std::memcpy(bytes.data(), w.data(), bytes.size());
    const Quantized q = quantize(bytes, QUATRO_F32, 65, 64, table, false, isa, 1);
    for (int i = 0; i < 64; ++i)
      expect((q.codes[i / 2] >> (i % 2 ? 0 : 4) & 15) == i % 16, "a table's value takes its own code");
    expect(q.scales[0] == 8.0f, "the scale is the largest magnitude");
    std::vector<float> out(65);
    std::memcpy(out.data(), dequantize(q, 65, 64, table, QUATRO_F32, isa, 1).data(), 65 * 4);
    expect(out == w, "a table's values survive the round trip");
    const Quantized zeros = quantize(std::vector<uint8_t>(96 * 4), QUATRO_F32, 96, 64, affine_table(), true, isa, 1);
    std::memcpy(out.data(), dequantize(zeros, 64, 64, affine_table(), QUATRO_F32, isa, 1).data(), 64 * 4);
    for (int i = 0; i < 64; ++i) expect(out[i] == 0.0f, "a block of zeros stays zero");
  }
}

void first_non_finite_is_reported() {
  const int64_t n = 200000;
  const Table table = random_table(16);
  std::vector<uint8_t> w = random_weights(n, QUATRO_F32);
  for (int64_t bad : {int64_t{199999}, int64_t{150001}, int64_t{4096}, int64_t{77}, int64_t{0}}) {
    const float value = bad % 2 ? kNaN : -kInfinity;
    std::memcpy(&w[static_cast<size_t>(bad) * 4], &value, 4);
    for (int isa = 0; isa <= quatro_best_isa(); ++isa)
      for (int threads : {1, 2, 3}) {
        const Quantized q = quantize(w, QUATRO_F32, n, 64, table, bad % 3 == 0, isa, threads);
        expect(q.status == QUATRO_NON_FINITE && q.first_bad == bad, "the smallest bad index is reported");
      }
  }
}

struct Scales {
  std::vector<uint8_t> codes;
  std::vector<float> absmax, mean = {kNaN};
  int status = 0;
};

std::vector<float> random_thresholds() {
  std::vector<float> thresholds(255);
  for (int i = 0; i < 255; ++i)
    thresholds[i] = static_cast<float>(i - 127) / 128 + static_cast<float>(randomness() % 100) * 1e-5f;
  return thresholds;
}

Scales quantize_scales(const std::vector<float> &scales, int64_t group, const std::vector<float> &thresholds, int isa,
                       int threads) {
  const auto n = static_cast<int64_t>(scales.size());
  Scales q;
  q.codes.assign(scales.size(), 0xee), q.absmax.assign(static_cast<size_t>(blocks_of(n, group)), kNaN);
  q.status = quatro_quantize_scales(scales.data(), n, group, thresholds.data(), q.codes.data(), q.absmax.data(),
                                    q.mean.data(), isa, threads);
  return q;
}

void scales_agree_across_instruction_sets() {
  const std::vector<float> thresholds = random_thresholds(), map = [] {
    std::vector<float> values(256);
    for (float &value : values) value = std::normal_distribution<float>()(randomness);
    return values;
  }();
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<float> scales(1 + randomness() % (trial % 5 ? 3000 : 120000));
    for (float &scale : scales) scale = trial % 7 ? std::exp(std::normal_distribution<float>()(randomness)) : 0.25f;
    const int64_t group = trial % 2 ? 256 : 32, n = static_cast<int64_t>(scales.size());
    const Scales one = quantize_scales(scales, group, thresholds, QUATRO_SCALAR, 1);
    for (int isa = 0; isa <= quatro_best_isa(); ++isa) {
      const Scales q = quantize_scales(scales, group, thresholds, isa, 1 + trial % 3);
      expect(q.status == QUATRO_OK && same(q.codes, one.codes) && same(q.absmax, one.absmax) && same(q.mean, one.mean),
             std::string("scales equal their twin, ") + kIsaNames[isa] + " n=" + std::to_string(n));
      std::vector<float> out(scales.size(), kNaN), twin(scales.size(), kNaN);
      const auto back = [&](float *to, int with, int threads) {
        quatro_dequantize_scales(q.codes.data(), n, group, map.data(), q.absmax.data(), q.mean[0], to, with, threads);
      };
      back(out.data(), isa, 2);
      back(twin.data(), QUATRO_SCALAR, 1);
      expect(same(out, twin), std::string("dequantized scales equal their twin, ") + kIsaNames[isa]);
    }
  }
  std::vector<float> bad(1000, 1.0f);
  bad[900] = kInfinity;
  for (int isa = 0; isa <= quatro_best_isa(); ++isa)
    expect(quantize_scales(bad, 256, thresholds, isa, 1).status == QUATRO_NON_FINITE, "an infinite scale is refused");
}

// A right call of each function, and mistakes that change one argument of it. None may touch memory.
struct Buffers {
  Table table = random_table(16);
  std::vector<float> w = std::vector<float>(65, 1.0f), out = std::vector<float>(65), scales = std::vector<float>(2),
                     zeros = scales;
  std::vector<float> thresholds = random_thresholds(), map = std::vector<float>(256);
  std::vector<uint8_t> codes = std::vector<uint8_t>(65);
  std::vector<float> descending = {thresholds.rbegin(), thresholds.rend()}, nan = std::vector<float>(255, kNaN);
  std::vector<float> infinite = std::vector<float>(16, kInfinity);
  std::vector<uint8_t> large_codes = std::vector<uint8_t>(16, 16);
  int64_t bad = 0;
  float mean = 0.0f;
};
Buffers buffers;

template <class Call>
void refuses(const char *name, void (*const *begin)(Call &), void (*const *end)(Call &)) {
  expect(Call().run() == QUATRO_OK, std::string(name) + " accepts the call that the others vary");
  for (auto *mistake = begin; mistake != end; ++mistake) {
    Call call;
    (*mistake)(call);
    expect(call.run() == QUATRO_BAD_ARGUMENT,
           std::string(name) + " refuses mistake " + std::to_string(mistake - begin));
  }
  for (int isa : {-1, quatro_best_isa() + 1, 1000}) {
    Call call;
    call.isa = isa;
    expect(call.run() == QUATRO_BAD_ISA, std::string(name) + " refuses an instruction set");
  }
}

template <class T>
T *misaligned(T *pointer) {
  return reinterpret_cast<T *>(reinterpret_cast<uintptr_t>(pointer) + 1);
}

struct QuantizeCall {
  const float *w = buffers.w.data(), *thresholds = buffers.table.thresholds.data();
  int dtype = QUATRO_F32, isa = quatro_best_isa(), threads = 2;
  int64_t n = 65, block = 64, *bad = &buffers.bad;
  const uint8_t *order = buffers.table.order.data();
  uint8_t *codes = buffers.codes.data();
  float full_scale = 1.0f, *scales = buffers.scales.data(), *zeros = buffers.zeros.data();
  int run() const {
    return quatro_quantize(w, dtype, n, block, thresholds, order, full_scale, codes, scales, zeros, bad, isa, threads);
  }
};

struct DequantizeCall {
  const uint8_t *codes = buffers.codes.data();
  int64_t n = 65, block = 64;
  const float *table = buffers.table.values.data(), *scales = buffers.scales.data(), *zeros = nullptr;
  float *out = buffers.out.data();
  int dtype = QUATRO_F32, isa = quatro_best_isa(), threads = 1;
  int run() const { return quatro_dequantize(codes, n, block, table, scales, zeros, out, dtype, isa, threads); }
};

struct QuantizeScalesCall {
  const float *scales = buffers.w.data(), *thresholds = buffers.thresholds.data();
  int64_t n = 65, group = 64;
  uint8_t *codes = buffers.codes.data();
  float *absmax = buffers.scales.data(), *mean = &buffers.mean;
  int isa = quatro_best_isa(), threads = 1;
  int run() const { return quatro_quantize_scales(scales, n, group, thresholds, codes, absmax, mean, isa, threads); }
};

struct DequantizeScalesCall {
  const uint8_t *codes = buffers.codes.data();
  int64_t n = 65, group = 64;
  const float *map = buffers.map.data(), *absmax = buffers.scales.data();
  float *out = buffers.out.data();
  int isa = quatro_best_isa(), threads = 1;
  int run() const { return quatro_dequantize_scales(codes, n, group, map, absmax, 0.0f, out, isa, threads); }
};

void bad_arguments_are_refused() {
  using Q = QuantizeCall;
  void (*const quantize_mistakes[])(Q &) = {[](Q &c) { c.w = nullptr; },
                                            [](Q &c) { c.w = misaligned(c.w); },
                                            [](Q &c) { c.dtype = 3; },
                                            [](Q &c) { c.dtype = -1; },
                                            [](Q &c) { c.n = -1; },
                                            [](Q &c) { c.n = int64_t{1} << 60; },
                                            [](Q &c) { c.block = 0; },
                                            [](Q &c) { c.block = -64; },
                                            [](Q &c) { c.block = 33; },
                                            [](Q &c) { c.block = int64_t{1} << 40; },
                                            [](Q &c) { c.thresholds = nullptr; },
                                            [](Q &c) { c.thresholds = buffers.descending.data(); },
                                            [](Q &c) { c.order = nullptr; },
                                            [](Q &c) { c.thresholds = buffers.nan.data(); },
                                            [](Q &c) { c.full_scale = 0.0f; },
                                            [](Q &c) { c.order = buffers.large_codes.data(); },
                                            [](Q &c) { c.full_scale = -1.0f; },
                                            [](Q &c) { c.full_scale = kNaN; },
                                            [](Q &c) { c.full_scale = kInfinity; },
                                            [](Q &c) { c.codes = nullptr; },
                                            [](Q &c) { c.scales = nullptr; },
                                            [](Q &c) { c.zeros = misaligned(c.zeros); },
                                            [](Q &c) { c.bad = nullptr; },
                                            [](Q &c) { c.bad = misaligned(c.bad); },
                                            [](Q &c) { c.threads = 0; },
                                            [](Q &c) { c.threads = 1 << 20; }};
  refuses("quantize", std::begin(quantize_mistakes), std::end(quantize_mistakes));

  using D = DequantizeCall;
  void (*const dequantize_mistakes[])(D &) = {
      [](D &c) { c.codes = nullptr; },  [](D &c) { c.table = buffers.infinite.data(); },
      [](D &c) { c.table = nullptr; },  [](D &c) { c.scales = misaligned(c.scales); },
      [](D &c) { c.scales = nullptr; }, [](D &c) { c.zeros = misaligned(c.scales); },
      [](D &c) { c.out = nullptr; },    [](D &c) { c.out = misaligned(c.out); },
      [](D &c) { c.n = -1; },           [](D &c) { c.block = 48; },
      [](D &c) { c.dtype = 9; },        [](D &c) { c.threads = 0; }};
  refuses("dequantize", std::begin(dequantize_mistakes), std::end(dequantize_mistakes));

  using S = QuantizeScalesCall;
  void (*const scales_mistakes[])(S &) = {[](S &c) { c.scales = nullptr; },
                                          [](S &c) { c.thresholds = nullptr; },
                                          [](S &c) { c.codes = nullptr; },
                                          [](S &c) { c.thresholds = buffers.descending.data(); },
                                          [](S &c) { c.absmax = nullptr; },
                                          [](S &c) { c.mean = nullptr; },
                                          [](S &c) { c.n = 0; },
                                          [](S &c) { c.group = 20; },
                                          [](S &c) { c.threads = -1; }};
  refuses("quantize_scales", std::begin(scales_mistakes), std::end(scales_mistakes));

  using B = DequantizeScalesCall;
  void (*const back_mistakes[])(B &) = {[](B &c) { c.codes = nullptr; },  [](B &c) { c.map = nullptr; },
                                        [](B &c) { c.absmax = nullptr; }, [](B &c) { c.out = nullptr; },
                                        [](B &c) { c.n = -33; },          [](B &c) { c.group = 0; }};
  refuses("dequantize_scales", std::begin(back_mistakes), std::end(back_mistakes));

  Q nothing;
  nothing.n = 0, nothing.w = nullptr, nothing.codes = nullptr, nothing.scales = nullptr, nothing.zeros = nullptr;
  expect(nothing.run() == QUATRO_OK, "no weights need no memory");
}

// A weight of random codes and scales, plain or nested, symmetric or affine. Vectors have exactly the sizes that are promised.
struct RandomWeight {
  std::vector<uint8_t> codes, nested;
  std::vector<float> table, absmax, zeros, map = std::vector<float>(256), group_absmax, mean = {0.5f};
  quatro_weight view = {};

  RandomWeight(int64_t outputs, int64_t inputs, int64_t block, bool is_nested, bool affine) {
    const auto blocks = static_cast<size_t>(outputs * inputs / block);
    std::normal_distribution<float> normal;
    codes.resize(static_cast<size_t>(outputs * inputs / 2));
    for (uint8_t &code : codes) code = static_cast<uint8_t>(randomness());
    table = affine ? affine_table().values : random_table(16).values;
    for (float &value : map) value = normal(randomness);
    group_absmax.assign((blocks + 255) / 256, 0.25f);
    for (size_t i = 0; i < blocks; ++i) {
      is_nested ? nested.push_back(static_cast<uint8_t>(randomness())) : absmax.push_back(std::fabs(normal(randomness)));
      if (affine) zeros.push_back(normal(randomness) + 7.0f);
    }
    view = {codes.data(), outputs, inputs, block, table.data(), is_nested ? nullptr : absmax.data(),
            is_nested ? nested.data() : nullptr, 256, map.data(), group_absmax.data(), mean.data(),
            affine ? zeros.data() : nullptr};
  }
};

struct Memory {  // aligned to a line
  std::vector<char> bytes;
  explicit Memory(int64_t size) : bytes(static_cast<size_t>(size) + 64) {}
  void *start() { return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64); }
};

std::vector<float> normal_numbers(int64_t count) {
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float &number : numbers) number = std::normal_distribution<float>()(randomness);
  return numbers;
}

std::vector<uint8_t> product(const RandomWeight &weight, const std::vector<uint8_t> &x, int dtype, int64_t rows, bool backward,
                             int isa, int threads) {
  const quatro_weight &w = weight.view;
  int16_t steps[16];
  const float largest = std::fabs(*std::max_element(weight.table.begin(), weight.table.end()));
  for (int i = 0; i < 16; ++i) steps[i] = static_cast<int16_t>(std::lround(weight.table[i] / largest * 4000.0f));
  std::vector<uint8_t> out(static_cast<size_t>(rows * (backward ? w.inputs : w.outputs)) * (dtype == QUATRO_F32 ? 4 : 2), 0xff);
  Memory memory(quatro_product_workspace(w.outputs, w.inputs, w.block, rows, threads));
  const int status = backward ? quatro_linear_backward(&w, x.data(), dtype, rows, out.data(), memory.start(), isa, threads)
                              : quatro_linear(&w, steps, 4000.0f / largest, x.data(), dtype, rows, nullptr, out.data(),
                                              memory.start(), isa, threads);
  expect(status == QUATRO_OK, "a product returns ok");
  return out;
}

void products_agree_across_instruction_sets() {
  for (int trial = 0; trial < 150; ++trial) {
    const int64_t block = int64_t{32} << randomness() % 4, inputs = block * (1 + randomness() % 5);
    const int64_t outputs = 1 + randomness() % 90, rows = 1 + randomness() % 27;
    const int dtype = trial % 3, threads = 1 + trial % 3;
    const bool backward = trial % 2;
    const RandomWeight weight(outputs, inputs, block, trial % 5 < 3, trial % 4 == 3);
    const std::vector<uint8_t> x = random_weights(rows * (backward ? outputs : inputs), dtype);
    const std::vector<uint8_t> scalar = product(weight, x, dtype, rows, backward, QUATRO_SCALAR, 1);
    for (int isa = 0; isa <= quatro_best_isa(); ++isa)
      expect(same(product(weight, x, dtype, rows, backward, isa, threads), scalar),
             std::string("a product equals its twin, ") + kIsaNames[isa] + (backward ? " backward" : " forward") +
                 " outputs=" + std::to_string(outputs) + " inputs=" + std::to_string(inputs) +
                 " block=" + std::to_string(block) + " rows=" + std::to_string(rows) + " dtype=" + std::to_string(dtype));
  }
}

// 64 largest products of one sign: the sum that must still be below 2^31.
void the_largest_sums_do_not_overflow() {
  RandomWeight weight(33, 128, 64, false, false);
  std::fill(weight.codes.begin(), weight.codes.end(), 0);  // the code of the largest value, 1
  std::fill(weight.absmax.begin(), weight.absmax.end(), 1.0f);
  for (int isa = 0; isa <= quatro_best_isa(); ++isa)
    for (int backward = 0; backward < 2; ++backward) {
      const int64_t count = backward ? 33 : 128, rows = 5;
      const std::vector<float> ones(static_cast<size_t>(rows * count), 1.0f);
      std::vector<uint8_t> x(ones.size() * 4);
      std::memcpy(x.data(), ones.data(), x.size());
      const std::vector<uint8_t> bytes = product(weight, x, QUATRO_F32, rows, backward, isa, 1);
      std::vector<float> out(bytes.size() / 4);
      std::memcpy(out.data(), bytes.data(), bytes.size());
      for (float y : out) expect(std::fabs(y - static_cast<float>(count)) < 1e-4f * static_cast<float>(count), "a sum of ones");
    }
}

void dense_products_agree_across_instruction_sets() {
  for (int trial = 0; trial < 60; ++trial) {
    const int64_t outputs = 1 + randomness() % 40, inputs = 1 + randomness() % 200, rows = 1 + randomness() % 11;
    const int dtype = trial % 2 ? QUATRO_BF16 : QUATRO_F16;
    const std::vector<uint8_t> weight = random_weights(outputs * inputs, dtype);
    const std::vector<float> x = normal_numbers(rows * inputs), bias = normal_numbers(outputs);
    std::vector<float> scalar(static_cast<size_t>(rows * outputs), kNaN), out = scalar;
    for (int isa = 0; isa <= quatro_best_isa(); ++isa) {
      quatro_dense_linear(weight.data(), dtype, outputs, inputs, x.data(), rows, trial % 3 ? bias.data() : nullptr,
                          isa ? out.data() : scalar.data(), isa, 1 + trial % 2);
      expect(!isa || same(out, scalar), std::string("a dense product equals its twin, ") + kIsaNames[isa]);
    }
  }
}

// Random sizes and flags, most of them wrong: a call is refused or stays inside its memory. Sanitizers see the rest.
void any_shape_is_refused_or_computed() {
  int computed = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    const auto pick = [](std::initializer_list<int64_t> of) { return *(of.begin() + randomness() % of.size()); };
    const int64_t outputs = pick({0, -1, 1, 7, 33, int64_t{1} << 40}), inputs = pick({0, 32, 64, 96, 160, -64, int64_t{1} << 62});
    const int64_t block = pick({0, 16, 32, 48, 64, 96, 128, -32}), rows = pick({-1, 0, 1, 3, 14, int64_t{1} << 50});
    const int threads = static_cast<int>(pick({-1, 0, 1, 2})), dtype = static_cast<int>(pick({-1, 0, 1, 2, 3}));
    const int64_t size = quatro_product_workspace(outputs, inputs, block, rows, threads);
    RandomWeight weight(33, 160, 32, trial % 2, trial % 3 == 0);  // large enough for every shape that is taken
    weight.view.outputs = outputs, weight.view.inputs = inputs, weight.view.block = block;
    if (trial % 7 == 0) weight.view.table = nullptr;
    if (trial % 11 == 0) weight.view.absmax = nullptr, weight.view.nested = nullptr;
    std::vector<float> x(14 * 160, 1.0f), out(14 * 160);
    int16_t steps[16] = {1, 2, 3};
    if (trial % 13 == 0) steps[5] = 5000;
    Memory memory(std::max<int64_t>(size, 0));
    const int forward = quatro_linear(&weight.view, steps, trial % 17 ? 3.0f : 0.0f, x.data(), dtype, rows, nullptr, out.data(),
                                      memory.start(), quatro_best_isa(), threads);
    const int backward = quatro_linear_backward(&weight.view, x.data(), dtype, rows, out.data(), memory.start(), QUATRO_SCALAR,
                                                threads);
    expect(size >= 0 || (forward == QUATRO_BAD_ARGUMENT && backward == QUATRO_BAD_ARGUMENT), "no product without a size");
    computed += forward == QUATRO_OK;
  }
  expect(computed > 10, "some of them are right");
}

void the_rest_answers() {
  expect(quatro_abi() == QUATRO_ABI, "the interface knows its number");
  for (int status = 0; status < 5; ++status)
    expect(std::strlen(quatro_status_text(status)) > 1, "every status has a text");
}

}  // namespace

int main() {
  std::printf("best instruction set: %s\n", kIsaNames[quatro_best_isa()]);
  weights_agree_across_instruction_sets();
  odd_scales_agree();
  large_outputs_agree();
  known_numbers_come_out();
  first_non_finite_is_reported();
  scales_agree_across_instruction_sets();
  products_agree_across_instruction_sets();
  the_largest_sums_do_not_overflow();
  dense_products_agree_across_instruction_sets();
  any_shape_is_refused_or_computed();
  bad_arguments_are_refused();
  the_rest_answers();
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
