"""The C++ kernels against the reference, bit for bit, on every instruction set this processor has."""

import math
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quatro.format.codebooks import code_table
from quatro.format.errors import BackendError, InputError, NonFiniteError, ShapeError
from quatro.format.layout import BLOCK_SIZES
from quatro.kernels import library, native, reference

TABLES = [("nf4", None, True), ("fp4", None, True), ("nf3", None, True), ("nf2", None, True), ("int4", None, True), ("int4", None, False),
          ("custom", (-1.0, 0.3, 0.5, 1.0), True), ("custom", (-0.5, 1.0), True)]  # fmt: skip
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MANY = 9 * 2**15 + 77
"""Enough weights that eight threads have work."""


@pytest.fixture(params=library.ISAS)
def isa(request, monkeypatch):
    """Each instruction set in turn, and uninitialized memory that is full of NaN and 0xFF."""
    assert native.refusal(torch.device("cpu")) is None
    monkeypatch.setenv("QUATRO_ISA", request.param)
    if native.instruction_set() != request.param:
        pytest.skip(f"this processor has no {request.param}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield request.param
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def assert_same_bits(got, expected):
    """Equal with the signs of zeros, which torch.equal does not see."""
    assert got.dtype == expected.dtype
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[got.itemsize]
    assert torch.equal(got.view(integers), expected.view(integers))


def awkward_weights(count, dtype):
    """Normal blocks of very different sizes, among them zeros, denormals and the largest numbers of the dtype; then a constant."""
    largest = torch.finfo(dtype).max
    sizes = torch.tensor([1.0, 1e-3, 0.0, 1e-40, largest / 8, 6e-8, 30.0]).repeat_interleave(48)
    w = torch.randn(count) * sizes.repeat(-(-count // len(sizes)))[:count]
    w[count // 2 : count // 2 + 70] = -0.75
    return w.clamp(-largest, largest).to(dtype)


def awkward_counts(block_size):
    return (1, 2, block_size - 1, block_size, block_size + 1, 3 * block_size + 18, 5 * block_size + 31)


def assert_equal_to_reference(w, table, block_size, affine, out_dtypes=DTYPES):
    expected = reference.quantize(w, table, block_size, affine)
    codes, scales, zeros = native.quantize(w, table, block_size, affine)
    assert torch.equal(codes, expected[0])
    assert_same_bits(scales, expected[1])
    assert (zeros is None) == (not affine)
    if zeros is not None:
        assert torch.equal(zeros, expected[2])
    for dtype in out_dtypes:
        poisoned = torch.full((2, w.numel()), torch.nan, dtype=dtype)
        arguments = (codes, scales, zeros, table, w.numel(), block_size)
        assert_same_bits(native.dequantize(*arguments, poisoned[0]), reference.dequantize(*arguments, poisoned[1]))


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize(("name", "values", "symmetric"), TABLES)
def test_codes_and_weights_are_the_references(isa, name, values, symmetric, block_size):
    table = code_table(name, values, symmetric)
    for count in awkward_counts(block_size):
        for dtype in DTYPES:
            assert_equal_to_reference(
                awkward_weights(count, dtype), table, block_size, not symmetric, [dtype, DTYPES[count % 3]]
            )


@pytest.mark.parametrize(("name", "values", "symmetric"), TABLES)
def test_a_tie_goes_to_the_lower_value_and_its_neighbors_do_not(isa, name, values, symmetric):
    table = code_table(name, values, symmetric)
    thresholds = torch.tensor(table.thresholds)
    around = torch.stack([thresholds, thresholds.nextafter(torch.tensor(-100.0)), thresholds.nextafter(torch.tensor(100.0))])
    ends = torch.tensor([0.0, table.full_scale] if not symmetric else [-table.full_scale, table.full_scale])
    w = torch.cat([ends, around.flatten().clamp(*ends), torch.zeros(62 - around.numel())])
    assert_equal_to_reference(w, table, 64, not symmetric)
    codes = reference.unpack(native.quantize(w, table, 64, not symmetric)[0], 64)
    positions = torch.tensor(table.order).argsort()[codes[2 : 2 + len(thresholds)].long()]
    reachable = thresholds >= ends[0]  # int4 chooses from -7 up
    lower = (thresholds[:, None] > thresholds).sum(1)
    assert torch.equal(positions[reachable], lower[reachable])


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=300),
    st.sets(st.integers(-1000, 1000), min_size=2, max_size=16),
    st.sampled_from([32, 64, 128]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_finite_numbers_and_any_table_give_the_references_bits(isa, numbers, values, block_size, affine):
    table = code_table("int4", None, False) if affine else code_table("custom", tuple(v / 1000 for v in sorted(values)))
    assert_equal_to_reference(torch.tensor(numbers), table, block_size, affine)


def test_memory_that_starts_at_any_element_is_read_and_written(isa):
    table = code_table("nf4")
    for dtype in DTYPES:
        w = torch.randn(1000).to(dtype)[3:]
        codes, scales, _ = native.quantize(w, table, 64)
        assert torch.equal(codes, reference.quantize(w.clone(), table, 64)[0])
        out = torch.full((1001,), torch.nan, dtype=dtype)
        native.dequantize(codes, scales, None, table, 997, 64, out[3:1000])
        assert out[:3].isnan().all()
        assert out[1000].isnan()
        expected = torch.empty(997, dtype=dtype)
        assert_same_bits(out[3:1000].clone(), reference.dequantize(codes, scales, None, table, 997, 64, expected))


def test_an_output_larger_than_the_caches_has_the_same_bits(isa):
    count = 13 * 2**18 + 33
    codes = torch.randint(256, ((count + 1) // 2,), dtype=torch.uint8)
    scales = torch.rand((count + 63) // 64)
    for dtype in DTYPES:
        arguments = (codes, scales, None, code_table("nf4"), count, 64)
        got = native.dequantize(*arguments, torch.empty(count, dtype=dtype))
        assert_same_bits(got, reference.dequantize(*arguments, torch.empty(count, dtype=dtype)))


@pytest.mark.parametrize("name", ["nf4", "int4"])
def test_bits_do_not_depend_on_the_number_of_threads(isa, monkeypatch, name):
    w, affine = torch.randn(MANY), name == "int4"
    table = code_table(name, None, not affine)
    seen = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        codes, scales, zeros = native.quantize(w, table, 64, affine)
        out = native.dequantize(codes, scales, zeros, table, MANY, 64, torch.empty(MANY))
        nested = native.quantize_scales(scales.repeat(70))
        seen.append((codes, scales, out, *nested, native.dequantize_scales(*nested)))
    for other in seen[1:]:
        for got, expected in zip(other, seen[0], strict=True):
            assert_same_bits(got, expected)


def test_a_callers_flush_to_zero_does_not_change_bits(isa):
    w, table = torch.randn(1000) * 1e-39, code_table("nf4")
    expected = native.quantize(w, table, 64)
    plain = native.dequantize(*expected, table, 1000, 64, torch.empty(1000))
    assert plain.abs().max() > 0
    assert torch.set_flush_denormal(True)
    try:
        got = native.quantize(w, table, 64)
        restored = native.dequantize(*got, table, 1000, 64, torch.empty(1000))
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(got[0], expected[0])
    assert_same_bits(got[1], expected[1])
    assert_same_bits(restored, plain)


def test_python_threads_that_quantize_at_once_do_not_meet(isa, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    table = code_table("fp4")
    weights = [torch.randn(70_000) for _ in range(6)]
    expected = [reference.quantize(w, table, 128)[0] for w in weights]
    start = threading.Barrier(3)

    def work(index):
        if index < 3:
            start.wait()
        codes, scales, _ = native.quantize(weights[index], table, 128)
        return codes, native.dequantize(codes, scales, None, table, 70_000, 128, torch.empty(70_000))

    with ThreadPoolExecutor(3) as pool:
        for index, (codes, out) in enumerate(pool.map(work, range(6))):
            assert torch.equal(codes, expected[index])
            assert not out.isnan().any()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_nan_or_inf_is_named(isa, monkeypatch, dtype, affine):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    table, w = code_table("int4", None, not affine), torch.randn(MANY).to(dtype)
    for index, value in [(MANY - 1, math.inf), (MANY - 100, math.nan), (150_000, -math.inf), (97, math.nan), (0, math.inf)]:
        w[index] = value
        with pytest.raises(NonFiniteError, match=f"holds {value} at flat index {index};") as caught:
            native.quantize(w, table, 64, affine)
        assert caught.value.index == index


@pytest.mark.parametrize("count", [1, 31, 255, 256, 257, 5000, 70_000])
def test_double_quantized_scales_are_the_references(isa, count):
    for scales in (torch.rand(count) * 3, torch.full((count,), 0.25), torch.zeros(count), torch.rand(count) * 1e-39):
        expected = reference.quantize_scales(scales)
        got = native.quantize_scales(scales)
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape
            assert_same_bits(a, b)
        assert_same_bits(native.dequantize_scales(*got), reference.dequantize_scales(*got))


def test_the_mean_of_scales_is_summed_in_float64_and_in_order(isa):
    many_ones = torch.where(torch.arange(70_000) < 256, 2.0**24, 1.0)
    assert native.quantize_scales(many_ones)[2] == torch.tensor((256 * 2**24 + 70_000 - 256) / 70_000)
    # In order each 2^-30 is lost beside 2^24; in any other order they add up and tip 2^24 + 1, a tie of float32, upward.
    tipping = torch.cat([torch.tensor([2.0**24, 1.0]), torch.full((254,), 2.0**-30)])
    assert native.quantize_scales(tipping)[2] == reference.quantize_scales(tipping)[2] == 2.0**24 / 256


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=600))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_scales_give_the_references_bits(isa, numbers):
    scales = torch.tensor(numbers)
    for a, b in zip(native.quantize_scales(scales), reference.quantize_scales(scales), strict=True):
        assert_same_bits(a, b)


def test_scales_that_are_not_finite_are_refused(isa):
    scales = torch.ones(400)
    scales[321] = torch.nan
    with pytest.raises(NonFiniteError, match="scales holds nan at flat index 321"):
        native.quantize_scales(scales)


def test_tensors_that_pointers_must_not_be_taken_of_are_refused():
    table, codes, scales, out = code_table("nf4"), torch.zeros(64, dtype=torch.uint8), torch.ones(2), torch.empty(128)
    for w in (torch.randn(64, 2)[:, 0], torch.randn(64).double(), torch.empty(64, device="meta")):
        with pytest.raises(ShapeError, match=r"w is .*the native kernels (take|need)"):
            native.quantize(w, table, 64)
    right = {"codes": codes, "scales": scales, "zeros": None, "table": table, "count": 128, "block_size": 64, "out": out}
    native.dequantize(**right)
    wrong = [{"codes": codes[:63]}, {"codes": codes.int()}, {"scales": torch.ones(3)}, {"scales": scales.double()},
             {"zeros": torch.ones(1)}, {"out": torch.empty(127)}, {"out": torch.empty(256)[::2]}, {"count": 127}]  # fmt: skip
    for change in wrong:
        with pytest.raises(ShapeError, match="the native kernels need"):
            native.dequantize(**right | change)
    with pytest.raises(ShapeError, match="group_absmax is 2 contiguous elements of torch.float32 on cpu; .* need 1"):
        native.dequantize_scales(codes, scales, torch.zeros(()))
    with pytest.raises(ShapeError, match="scales is"):
        native.quantize_scales(scales.bfloat16())


def test_sizes_that_the_library_refuses_raise_and_write_nothing():
    with pytest.raises(InputError, match="the native kernels refuse this call: an argument is out of range"):
        native.quantize(torch.randn(100), code_table("nf4"), 48)


def test_the_best_instruction_set_is_the_one_the_system_knows_of(monkeypatch):
    monkeypatch.delenv("QUATRO_ISA", raising=False)
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.is_file():
        pytest.skip("no list of processor flags to compare with")
    flags = set(next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split())
    avx2 = {"avx", "avx2", "fma", "f16c"} <= flags
    avx512 = avx2 and {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vbmi"} <= flags
    assert native.instruction_set() == ("avx512" if avx512 else "avx2" if avx2 else "scalar")


def test_it_refuses_other_devices_and_unknown_instruction_sets(monkeypatch):
    assert native.refusal(torch.device("cuda")) == "runs on the CPU only, not on cuda"
    monkeypatch.setenv("QUATRO_ISA", "avx")
    assert native.refusal(torch.device("cpu")).startswith(
        "does not know the instruction set QUATRO_ISA='avx'; did you mean 'avx2'?"
    )
    with pytest.raises(BackendError, match="native does not know the instruction set"):
        native.quantize(torch.randn(64), code_table("nf4"), 64)


@pytest.fixture
def fresh_load():
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_a_library_that_is_missing_broken_or_of_another_time_is_a_refusal(fresh_load, monkeypatch, tmp_path):
    cpu = torch.device("cpu")
    built = library.ABI
    monkeypatch.setattr(library, "ABI", 99)
    assert native.refusal(cpu) == f"is built for interface {built}, this quatro needs 99; build it again with `pip install .`"
    library.load.cache_clear()
    (tmp_path / "broken.so").write_text("not a library")
    monkeypatch.setattr(library, "FILE", str(tmp_path / "broken.so"))
    assert native.refusal(cpu).startswith("cannot be loaded: ")
    library.load.cache_clear()
    monkeypatch.setattr(library, "FILE", str(tmp_path / "nowhere.so"))
    assert native.refusal(cpu).startswith("is not built: no ")
    with pytest.raises(BackendError, match="native is not built"):
        native.quantize(torch.randn(64), code_table("nf4"), 64)


def test_the_scalar_path_says_once_that_it_is_slow(monkeypatch, caplog):
    monkeypatch.setenv("QUATRO_ISA", "scalar")
    library._say_scalar.cache_clear()
    native.quantize(torch.randn(64), code_table("nf4"), 64)
    native.quantize(torch.randn(64), code_table("nf4"), 64)
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert "without vector instructions" in caplog.text
