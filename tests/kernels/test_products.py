"""Products of 16-bit integers on every instruction set: their error, and that their bits depend on nothing but the arguments."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import quatro
from quatro.format.codebooks import code_table
from quatro.format.errors import ShapeError
from quatro.format.integer_steps import LARGEST_STEP, has_integer_steps, integer_steps
from quatro.kernels import compute, library, native, reference
from quatro.kernels.products import StoredWeight, float_linear

ISAS = [isa for isa in library.ISAS if library.ISAS.index(isa) <= library.library().quatro_best_isa()]
TABLES = [("nf4", True), ("fp4", True), ("int4", True), ("int4", False), ("nf3", True), ("nf2", True)]
BOUND = 2e-4
"""docs/numerics.md; with outliers 5e-4."""


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """Each instruction set in turn, with uninitialized memory full of NaN."""
    monkeypatch.setenv("QUATRO_ISA", request.param)
    torch.use_deterministic_algorithms(True)
    yield request.param
    torch.use_deterministic_algorithms(False)


def stored(w, quant_type="nf4", block_size=64, double_quant=True, symmetric=True, table=None):
    t = quatro.quantize(w, quant_type, block_size, double_quant, symmetric=symmetric, table=table)
    meaning = code_table(t.spec.quant_type, t.spec.table, t.spec.symmetric)
    return StoredWeight(
        t.codes.view(w.shape[0], -1), t.absmax, t.nested_absmax, t.nested_offset, t.zeros, meaning, block_size
    ), (t.dequantize().double())


def relative(got, expected):
    return float((got.double() - expected).norm() / expected.norm())


def both_products(weight, x, g, bias=None):
    return native.integer_linear(x, weight, bias), native.integer_linear_backward(g, weight)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("block_size", [32, 64, 128, 512])
@pytest.mark.parametrize(("quant_type", "symmetric"), TABLES)
def test_the_error_is_below_its_bound_for_every_table_and_block(isa, quant_type, symmetric, block_size, double_quant):
    inputs = max(3 * block_size, 96)
    weight, dense = stored(torch.randn(70, inputs), quant_type, block_size, double_quant, symmetric)
    for rows in (1, 3, 7, 30):
        x, g, bias = torch.randn(rows, inputs), torch.randn(rows, 70), torch.randn(70)
        y, back = both_products(weight, x, g, bias)
        assert relative(y - bias, x.double() @ dense.T) < BOUND
        assert relative(back, g.double() @ dense) < BOUND


def test_a_users_own_table_works_and_one_of_specks_has_no_integers(isa):
    weight, dense = stored(torch.randn(33, 128), table=[-1.0, -0.2, 0.0, 0.4, 1.0])
    x = torch.randn(4, 128)
    assert relative(native.integer_linear(x, weight, None), x.double() @ dense.T) < BOUND
    specks = code_table("custom", (-1e-9, 1e-9))
    assert not has_integer_steps(specks)
    assert "too small to be shares" in native.integer_refusal(weight._replace(table=specks))
    assert "blocks of 64 do not divide rows of 96" in native.integer_refusal(stored(torch.randn(2, 96))[0])


def test_steps_have_twelve_bits_and_int4_and_fp4_fall_on_them_exactly():
    for name, symmetric in TABLES:
        table = code_table(name, None, symmetric)
        steps, per_one = integer_steps(table)
        assert max(map(abs, steps)) <= LARGEST_STEP
        error = max(abs(step / per_one - value) for step, value in zip(steps, table.padded_values, strict=True))
        assert error <= (1e-7 if name in ("int4", "fp4") else 1.25e-4)


@given(
    st.integers(1, 70), st.integers(1, 6), st.integers(1, 20), st.sampled_from([32, 64, 128]), st.sampled_from(TABLES),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bits_depend_on_neither_instruction_set_nor_threads_nor_rows(
    isa, outputs, blocks, rows, block_size, table, dtype, threads
):
    weight, dense = stored(torch.randn(outputs, blocks * block_size), table[0], block_size, True, table[1])
    x, g = torch.randn(rows, dense.shape[1]).to(dtype), torch.randn(rows, outputs).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y, back = both_products(weight, x, g, torch.ones(outputs))
        one_by_one = [both_products(weight, x[i : i + 1], g[i : i + 1], torch.ones(outputs)) for i in range(rows)]
    finally:
        torch.set_num_threads(before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUATRO_ISA", "scalar")
        twin = both_products(weight, x, g, torch.ones(outputs))
    assert torch.equal(y, twin[0])
    assert torch.equal(back, twin[1])
    assert torch.equal(y, torch.cat([row for row, _ in one_by_one]))
    assert torch.equal(back, torch.cat([row for _, row in one_by_one]))
    assert y.dtype == back.dtype == dtype


def test_work_for_several_threads_gives_the_same_bits_as_on_one(isa):
    weight, _ = stored(torch.randn(300, 1024))
    x, g = torch.randn(40, 1024), torch.randn(40, 300)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(both_products(weight, x, g))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_outliers_a_thousand_times_the_rest_keep_the_bound(isa):
    weight, dense = stored(torch.randn(200, 1024))
    x, g = torch.randn(8, 1024), torch.randn(8, 200)
    x[:, 77], g[:, 33] = 1000.0, -1000.0
    y, back = both_products(weight, x, g)
    assert relative(y, x.double() @ dense.T) < 5e-4
    assert relative(back, g.double() @ dense) < 5e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("product", ["integer", "float"])
def test_a_row_with_nan_or_inf_becomes_nan_and_its_neighbors_do_not(isa, bad, product):
    weight, _ = stored(torch.randn(40, 192))
    x, g = torch.randn(5, 192), torch.randn(5, 40)
    x[3, 100], g[3, 7] = bad, bad
    if product == "integer":
        found = both_products(weight, x, g)
    else:
        layer = quatro.nn.Linear4bit.from_linear(torch.nn.Linear(192, 40))
        layer.precision = "exact"
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(g)
        found = y.detach(), leaf.grad
    for out in found:
        assert out[3].isnan().all()
        assert out[[0, 1, 2, 4]].isfinite().all()


def test_zero_and_denormal_blocks_and_rows_are_right(isa):
    w = torch.randn(48, 256)
    w[:, 64:128] = 0.0
    w[:, 128:192] *= 1e-40
    w[5] = 0.0
    weight, dense = stored(w, double_quant=False)
    for size in (1.0, 1e-40, 1e30, 0.0):
        x, g = torch.randn(6, 256) * size, torch.randn(6, 48) * size
        x[2, :64] = 0.0
        y, back = both_products(weight, x, g)
        expected, expected_back = x.double() @ dense.T, g.double() @ dense
        # A float32 below 2^-126 is a multiple of 2^-149.
        assert (y - expected).norm() <= 5e-4 * expected.norm() + 2**-145
        assert (back - expected_back).norm() <= 5e-4 * expected_back.norm() + 2**-145
    only_small, small_dense = stored(torch.randn(48, 256) * 1e-39, double_quant=False)
    x, g = torch.randn(3, 256), torch.randn(3, 48)
    y, back = both_products(only_small, x, g)
    # A scale below 2^-126 is rounded to half of 2^-149, and four units of some three such scales' worth are summed.
    for found, expected in ((y, x.double() @ small_dense.T), (back, g.double() @ small_dense)):
        assert (found - expected).norm() <= 5e-4 * expected.norm() + 8 * found.numel() ** 0.5 * 2**-149


def test_strided_rows_no_rows_and_16_bit_bias_are_taken(isa):
    weight, dense = stored(torch.randn(20, 128))
    x = torch.randn(128, 6).T
    assert relative(native.integer_linear(x, weight, torch.zeros(20, dtype=torch.bfloat16)), x.double() @ dense.T) < BOUND
    assert native.integer_linear(torch.empty(0, 128), weight, None).shape == (0, 20)
    assert native.integer_linear_backward(torch.empty(0, 20), weight).shape == (0, 128)


def test_what_does_not_fit_is_refused_before_memory_is_touched(isa):
    weight, _ = stored(torch.randn(20, 128))
    with pytest.raises(ShapeError, match="x is 130 contiguous"):
        native.integer_linear(torch.randn(2, 65), weight, None)
    with pytest.raises(ShapeError, match="grad is torch.float64"):
        native.integer_linear_backward(torch.randn(2, 20).double(), weight)
    with pytest.raises(ShapeError, match="bias is 19"):
        native.integer_linear(torch.randn(2, 128), weight, torch.zeros(19))
    with pytest.raises(ShapeError, match="codes is 1280 strided"):
        native.integer_linear(torch.randn(2, 128), weight._replace(codes=weight.codes.T.contiguous().T), None)
    with pytest.raises(ShapeError, match="absmax is 39"):
        native.integer_linear(torch.randn(2, 128), weight._replace(absmax=weight.absmax.flatten()[:-1]), None)
    with pytest.raises(ShapeError, match="nested_offset is 2"):
        native.integer_linear(torch.randn(2, 128), weight._replace(nested_offset=torch.zeros(2)), None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 16), (7, 33), (64, 100), (33, 2048), (4, 31)])
def test_a_dense_16_bit_head_is_multiplied_in_float32_with_the_same_bits_everywhere(isa, outputs, inputs, dtype):
    weight, bias = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs)
    for rows in (1, 2, 3, 4, 9):
        x = torch.randn(rows, inputs)
        y = native.dense_linear(x, weight, bias)
        expected = x.double() @ weight.double().T + bias
        # Sixteen partial sums: of inputs / 16 terms each, and four additions more.
        bound = 8 * (inputs / 16 + 4) ** 0.5 * 2**-24
        assert ((y - expected).abs() <= bound * (x.double().abs() @ weight.double().abs().T + bias.abs())).all()
        assert torch.equal(y, torch.cat([native.dense_linear(x[i : i + 1], weight, bias) for i in range(rows)]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QUATRO_ISA", "scalar")
            assert torch.equal(y, native.dense_linear(x, weight, bias))


def test_many_rows_share_panels_of_a_dense_head_and_few_take_it_as_it_is(monkeypatch):
    monkeypatch.setattr(compute, "PANEL_BYTES", 4 * 96 * 10)
    weight, bias = torch.randn(37, 96).bfloat16(), torch.randn(37)
    for rows in (1, 8, 9, 40):
        x = torch.randn(rows, 96, requires_grad=True)
        y = compute.dense_linear(x, weight, bias, torch.float32, torch.float32)
        torch.testing.assert_close(y, torch.nn.functional.linear(x, weight.float(), bias), rtol=1e-5, atol=1e-5)
        y.square().sum().backward()
        torch.testing.assert_close(x.grad, 2 * y.detach() @ weight.float(), rtol=1e-5, atol=1e-4)


def test_python_threads_and_a_forked_child_get_the_same_bits():
    weight, _ = stored(torch.randn(200, 2048))
    x = torch.randn(33, 2048)
    expected = native.integer_linear(x, weight, None)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: native.integer_linear(x, weight, None), range(16)))
    assert all(torch.equal(expected, one) for one in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_fork_multiplies_without_its_parents_threads():
    weight, _ = stored(torch.randn(200, 2048))
    x = torch.randn(33, 2048)
    expected = native.integer_linear(x, weight, None)  # the parent's team of threads exists from here on
    child = os.fork()
    if child == 0:
        os._exit(0 if bytes(native.integer_linear(x, weight, None).numpy()) == bytes(expected.numpy()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class WorksInAnotherProcess(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.manual_seed(0)
        weight, _ = stored(torch.randn(64, 512))
        return native.integer_linear(torch.ones(3, 512), weight, None)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_data_loader_multiply():
    loader = torch.utils.data.DataLoader(WorksInAnotherProcess(), batch_size=None, num_workers=2)
    rows = list(loader)
    assert all(torch.equal(row, WorksInAnotherProcess()[0]) for row in rows)


def test_a_wrong_step_would_exceed_the_bound():
    weight, dense = stored(torch.randn(64, 512))
    x = torch.randn(4, 512)
    wrong = weight._replace(table=code_table("custom", tuple(sorted(v * 0.999 for v in weight.table.values))))
    assert relative(native.integer_linear(x, wrong, None), x.double() @ dense.T) > BOUND
    exact = float_linear(x, weight, None, torch.float32, reference)
    assert relative(exact, x.double() @ dense.T) < 1e-6
