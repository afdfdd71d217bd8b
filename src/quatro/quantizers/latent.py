"""A linear layer whose 4-bit codes and scales are still moving: dense numbers underneath, quantized ones in every product.

Source: straight-through estimation (arXiv 1308.3432); scales learned beside weights (LSQ, arXiv 1902.08153).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from quatro.format.errors import InputError
from quatro.format.layout import SMALLEST_SCALE
from quatro.format.spec import QuantSpec
from quatro.kernels.reference import dequantize_scales, nearest, pack, quantize_scales
from quatro.tensor.quantized import QuantizedTensor, quantize_with


class LatentLinear(nn.Module):
    """y = x Q^T + b, where Q (out, in) is what `quantized` would store now.

    latent: float32 (out, in), takes Q's gradient as it is. stretch: float32 (blocks,), the logarithm of what each block's scale is
    multiplied by. bias: float32 (out,) or None, frozen. Raises InputError for a spec with zero points.
    """

    start: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, spec: QuantSpec, bias: Tensor | None = None, name: str = "weight") -> None:
        super().__init__()
        if not spec.symmetric:
            raise InputError(f"{spec.quant_type} with zero points has no scales that can be tuned alone; choose symmetric=True")
        self.spec, self.plain = spec, quantize_with(weight.float(), spec, name)
        self.register_buffer("start", self.plain.scales.clone())
        self.register_buffer("bias", bias)
        self.latent = nn.Parameter(weight.detach().float().clone())
        self.stretch = nn.Parameter(torch.zeros_like(self.start))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), in x's dtype."""
        return nn.functional.linear(x, self._weight().to(x.dtype), self.bias)

    @torch.no_grad()
    def quantized(self) -> QuantizedTensor:
        """What the layer computes with, as it is stored."""
        parts = quantize_scales(self._scales()) if self.spec.double_quant else (self._scales(), None, None)
        table = self.spec.code_table
        order = torch.tensor(table.order, dtype=torch.uint8, device=self.latent.device)
        codes = pack(order[self._positions(self._per_weight(self._read_back(self._scales())))].flatten(), table.zero_code)
        return replace(
            self.plain,
            codes=codes.view(self.plain.codes.shape),
            absmax=parts[0],
            nested_absmax=parts[1],
            nested_offset=parts[2],
        )

    def _weight(self) -> Tensor:
        """Q: exact in value; to the latent its gradient is the identity, to a scale the code's value."""
        scales = self._scales()
        scales = scales + (self._read_back(scales) - scales).detach()
        table, steps = self.spec.code_table, self._per_weight(scales)
        values = torch.tensor([table.values[code] for code in table.order], device=steps.device)
        return values[self._positions(steps.detach())] * steps + (self.latent - self.latent.detach())

    def _scales(self) -> Tensor:
        return self.start * self.stretch.exp()

    @torch.no_grad()
    def _read_back(self, scales: Tensor) -> Tensor:
        """The scales as a reader of the checkpoint will have them."""
        return dequantize_scales(*quantize_scales(scales.detach())) if self.spec.double_quant else scales.detach()

    @torch.no_grad()
    def _positions(self, steps: Tensor) -> Tensor:
        table = self.spec.code_table
        scaled = (self.latent / steps.clamp(min=SMALLEST_SCALE)).clamp(-table.full_scale, table.full_scale)
        return nearest(scaled, table.thresholds)

    def _per_weight(self, scales: Tensor) -> Tensor:
        return scales.repeat_interleave(self.spec.block_size)[: self.latent.numel()].view(self.latent.shape)
