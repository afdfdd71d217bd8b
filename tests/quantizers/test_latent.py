"""Layers whose codes and scales still move, and the steps that move them."""

import pytest
import torch
from torch import nn

from quatro.format.errors import InputError
from quatro.format.spec import QuantSpec
from quatro.quantizers import LatentLinear, distill
from quatro.tensor.quantized import quantize_with

SPECS = [QuantSpec(), QuantSpec("fp4", 32, False), QuantSpec("int4", 128)]


def weight(rows: int = 8, count: int = 100) -> torch.Tensor:
    return torch.randn(rows, count, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.quant_type}-{spec.block_size}")
def test_what_is_stored_is_what_was_computed_with_after_the_scales_have_moved(spec: QuantSpec) -> None:
    layer = LatentLinear(weight(), spec)
    layer.stretch.data.copy_(torch.linspace(-0.2, 0.2, layer.stretch.numel()))
    layer.latent.data.mul_(1.1)
    stored = layer.quantized()
    assert torch.equal(stored.dequantize(), layer(torch.eye(100)).T.detach())
    assert not torch.equal(stored.dequantize(), quantize_with(weight(), spec).dequantize())


def test_the_latent_takes_the_weights_gradient_and_a_scale_that_of_its_codes() -> None:
    layer, outer = LatentLinear(weight(2, 64), QuantSpec(double_quant=False)), weight(2, 64)
    (layer(torch.eye(64)).T * outer).sum().backward()
    assert torch.allclose(layer.latent.grad, outer)
    expected = (outer * layer.quantized().dequantize()).sum(1)
    assert torch.allclose(layer.stretch.grad, expected, rtol=1e-5)


def test_steps_bring_a_change_too_small_for_rounding_to_the_answers() -> None:
    torch.manual_seed(0)
    base = quantize_with(weight(16, 64), QuantSpec()).dequantize()
    change = torch.randn(16, 2) @ torch.randn(2, 64) * 0.01
    assert change.norm() < 0.02 * base.norm()
    layer = LatentLinear(base + change, QuantSpec())
    embedding = nn.Embedding(50, 64)
    batches = list(torch.randint(0, 50, (60, 8, 16)))

    def divergence(found: torch.Tensor) -> float:
        ids = torch.arange(50)
        with torch.no_grad():
            wanted = (embedding(ids) @ (base + change).T).log_softmax(-1)
            given = (embedding(ids) @ found.T).log_softmax(-1)
        return float(nn.functional.kl_div(given, wanted, log_target=True, reduction="batchmean"))

    rounded = divergence(quantize_with(base + change, QuantSpec()).dequantize())
    for parameter in embedding.parameters():
        parameter.requires_grad_(False)
    seen: list[tuple[int, int]] = []
    distill(
        lambda ids: layer(embedding(ids)),
        lambda ids: embedding(ids) @ (base + change).T,
        [layer],
        batches,
        lambda done, all: seen.append((done, all)),
    )
    assert divergence(layer.quantized().dequantize()) < rounded / 2
    assert seen[-1] == (60, 60)


def test_zero_points_are_refused() -> None:
    with pytest.raises(InputError, match="zero points"):
        LatentLinear(weight(), QuantSpec("int4", symmetric=False))
