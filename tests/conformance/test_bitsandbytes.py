"""Our bits are bitsandbytes' bits: nf4 and fp4 codes and plain scales on CPU."""

import pytest
import torch

from quatro.format import codebooks
from quatro.format.dynamic_map import signed_dynamic_map
from quatro.format.layout import BLOCK_SIZES
from quatro.kernels.dispatch import backends, by_name, use_backend
from quatro.tensor.quantized import quantize

functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is a test dependency")

BACKENDS = [status.name for status in backends() if status.device == "cpu" and status.refusal is None]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def sizes(block_size: int) -> list[int]:
    """Whole blocks, a ragged last one, odd counts, less than a block, one element."""
    return [block_size * 4, block_size * 3 + 18, block_size * 2 + 7, block_size - 5, 1]


def weights(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal weights with an outlier and, where there is room, a block of zeros in the middle."""
    w = torch.randn(count)
    w[count // 3] *= 30
    w[count // 2 : count // 2 + 4096 // 16] = 0
    return w.to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_codes_scales_and_values_equal_bitsandbytes_bit_for_bit(quant_type, block_size, dtype, backend):
    for count in sizes(block_size):
        w = weights(count, dtype)
        theirs, state = functional.quantize_4bit(w, quant_type=quant_type, blocksize=block_size)
        with use_backend(backend):
            ours = quantize(w, quant_type, block_size, double_quant=False)
            values = ours.dequantize()
        assert torch.equal(ours.codes, theirs.flatten()), f"codes differ at {count} weights"
        # A ragged last block of zeros has 1e-38 there and 0 here, so that it gives exact zeros with any table.
        assert torch.equal(ours.absmax, state.absmax.masked_fill(state.absmax == 1e-38, 0.0)), (
            f"scales differ at {count} weights"
        )
        # Its dequantize multiplies in bfloat16 on some CPUs, so values are compared with the definition: table * absmax in float32.
        table = functional.get_4bit_type(quant_type, device="cpu")
        codes = torch.stack([theirs.flatten() >> 4, theirs.flatten() & 15], 1).flatten()[:count].long()
        expected = table[codes] * state.absmax.repeat_interleave(block_size)[:count]
        assert torch.equal(values, expected.to(dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_planted_mistake_in_one_threshold_would_be_seen(backend):
    table = codebooks.code_table("nf4")
    shifted = list(table.thresholds)
    shifted[7] += 1e-3
    w = torch.randn(4096)
    planted = codebooks.CodeTable("planted", codebooks.NF4)
    planted.__dict__["thresholds"] = tuple(shifted)
    theirs, _ = functional.quantize_4bit(w, quant_type="nf4", blocksize=64)
    kernels = by_name(backend)
    assert torch.equal(kernels.quantize(w, table, 64)[0], theirs.flatten())
    assert not torch.equal(kernels.quantize(w, planted, 64)[0], theirs.flatten())


def test_the_dynamic_map_equals_bitsandbytes():
    assert torch.equal(torch.tensor(signed_dynamic_map()), functional.create_dynamic_map(signed=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nested_codes_differ_from_bitsandbytes_by_at_most_one(backend):
    w = torch.randn(512, 1024)
    _, state = functional.quantize_4bit(w, quant_type="nf4", blocksize=64, compress_statistics=True)
    with use_backend(backend):
        ours = quantize(w)
    assert (ours.absmax.int() - state.absmax.int()).abs().max() <= 1
    assert torch.allclose(ours.nested_absmax, state.state2.absmax, rtol=1e-6)
    assert torch.allclose(ours.nested_offset, state.offset, rtol=1e-6)


def test_the_cases_compared_are_at_least_two_hundred():
    assert len(["nf4", "fp4"]) * len(BLOCK_SIZES) * len(DTYPES) * len(sizes(64)) >= 200
