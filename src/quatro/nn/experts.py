"""Experts of a mixture, their fused matrices frozen in 4 bits: only the tokens that the router sent to an expert are multiplied with it.

Shapes: hidden (tokens, in) · top_k_index, top_k_weights (tokens, k) · a projection's codes (experts, out, in / 2) uint8, and its scales per expert.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quatro.format.errors import ShapeError
from quatro.format.layout import block_count, group_count, rows_hold_whole_blocks
from quatro.format.spec import QuantSpec
from quatro.kernels import ops
from quatro.kernels.compute import product_dtypes
from quatro.kernels.dispatch import chosen_name
from quatro.nn.linear import nobody_watches
from quatro.tensor.quantized import QuantizedTensor

Factors = tuple[Tensor, Tensor, float]
"""A (experts, r, in), B (experts, out, r) and the scaling of their product."""
PARTS = ("absmax", "nested_absmax", "nested_offset", "zeros")


class Experts4bit(nn.Module):
    """y = sum over a token's experts of weight * down(gate(up(x))), each expert's matrices in blocks of its own.

    projections: (out, in) of an expert's matrices by name; the first is the one up. biases: (experts, out) by the projection's name.
    gate: what stands between up and down, (rows, out of up) -> (rows, in of down).
    is_transposed: whether checkpoints store an expert's matrices as (in, out); transformers' name for it.
    A projection P is a Parameter P of codes with buffers P_absmax and, as the spec says, P_nested_absmax, P_nested_offset, P_zeros;
    a bias is P_bias. A new module holds zeros; set_quantized or a state dict fill it.
    """

    is_transposed: bool = False

    def __init__(
        self,
        num_experts: int,
        projections: Mapping[str, tuple[int, int]],
        gate: Callable[[Tensor], Tensor],
        biases: Mapping[str, nn.Parameter] | None = None,
        spec: QuantSpec | None = None,
        compute_dtype: str = "auto",
        precision: str = "high",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_experts, self.projections, self.gate = num_experts, dict(projections), gate
        self._changes: dict[str, Sequence[Factors]] = {}
        self.spec, self.product_dtype, self.precision = spec or QuantSpec(), compute_dtype, precision
        for name, (outputs, inputs) in self.projections.items():
            self._register(name, outputs, inputs, device)
            self.register_parameter(f"{name}_bias", (biases or {}).get(name))

    def _register(self, name: str, outputs: int, inputs: int, device: torch.device | str | None) -> None:
        if inputs % 2:
            raise ShapeError(f"4-bit experts need an even number of inputs, {name} has {inputs}")
        count, nested = block_count(outputs * inputs, self.spec.block_size), self.spec.double_quant
        scales = self._scale_shape(name)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(self.num_experts, *shape, dtype=dtype, device=device)

        codes = empty(outputs, inputs // 2, dtype=torch.uint8)
        self.register_parameter(name, nn.Parameter(codes, requires_grad=False))
        self.register_buffer(f"{name}_absmax", empty(*scales, dtype=torch.uint8 if nested else torch.float32))
        self.register_buffer(f"{name}_nested_absmax", empty(group_count(count)) if nested else None)
        self.register_buffer(f"{name}_nested_offset", empty() if nested else None)
        self.register_buffer(f"{name}_zeros", None if self.spec.symmetric else empty(*scales))

    def _scale_shape(self, name: str) -> tuple[int, ...]:
        outputs, inputs = self.projections[name]
        if rows_hold_whole_blocks(inputs, self.spec.block_size):
            return outputs, inputs // self.spec.block_size
        return (block_count(outputs * inputs, self.spec.block_size),)

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """(tokens, in) -> (tokens, in) in hidden's dtype. An index of num_experts or more stands for no expert."""
        up, down = self.projections
        total = torch.zeros_like(hidden)
        for expert in torch.unique(top_k_index).tolist():
            if expert >= self.num_experts:
                continue
            token, slot = torch.where(top_k_index == expert)
            inner = self.gate(self._project(up, expert, hidden[token]))
            out = self._project(down, expert, inner) * top_k_weights[token, slot, None]
            total = total.index_add(0, token, out.to(total.dtype))
        return total

    def _project(self, name: str, expert: int, x: Tensor) -> Tensor:
        """x (rows, in) -> x W^T + bias (rows, out) with an expert's matrix."""
        result = self._frozen(name, expert, x)
        for a, b, scaling in self._changes.get(name, ()):
            change = nn.functional.linear(nn.functional.linear(x.to(a.dtype), a[expert]), b[expert])
            result = result + (change * scaling).to(result.dtype)
        return result

    def _frozen(self, name: str, expert: int, x: Tensor) -> Tensor:
        output, compute = product_dtypes(x.dtype, x.device.type, self.product_dtype)
        parts, bias = self._parts(name, expert), getattr(self, f"{name}_bias")
        meaning = (self.spec.quant_type, self.spec.table, self.spec.block_size)
        choices = (compute, self.precision, chosen_name(x.device.type))
        own = None if bias is None else bias[expert]
        if nobody_watches(x):
            return ops.linear_now(x.to(output), ops.stored_weight(*parts, *meaning), own, *choices)
        result: Tensor = ops.linear(x.to(output), *parts, own, *meaning, *choices)
        return result

    @contextmanager
    def changed(self, name: str, factors: Sequence[Factors]) -> Iterator[None]:
        """Inside, a projection's matrices W count as W + the sum of scaling * B A over the factors, each expert's with its own."""
        before = self._changes
        self._changes = {**before, name: factors}
        try:
            yield
        finally:
            self._changes = before

    def _parts(self, name: str, expert: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Codes, absmax, nested_absmax, nested_offset and zeros of one expert, without a copy."""
        absmax, *others = (getattr(self, f"{name}_{part}") for part in PARTS)
        nested, offset, zeros = (None if part is None else part[expert] for part in others)
        return getattr(self, name)[expert], absmax[expert], nested, offset, zeros

    def quantized(self, name: str, expert: int) -> QuantizedTensor:
        """One expert's matrix (out, in) as a tensor that shares this module's storage."""
        codes, absmax, nested, offset, zeros = self._parts(name, expert)
        parts = (codes.detach(), absmax.flatten(), nested, offset, None if zeros is None else zeros.flatten())
        return QuantizedTensor(*parts, torch.Size(self.projections[name]), torch.float32, self.spec)

    def dequantize(self, name: str) -> Tensor:
        """The dense matrices (experts, out, in) of a projection, float32."""
        return torch.stack([self.quantized(name, expert).dequantize() for expert in range(self.num_experts)])

    def stacked(self, name: str, tensors: list[QuantizedTensor]) -> dict[str, Tensor]:
        """All experts' matrices of a projection as this module's parameter and buffers, by their names."""
        scales = self._scale_shape(name)
        found = {name: torch.stack([tensor.codes for tensor in tensors])}
        found[f"{name}_absmax"] = torch.stack([tensor.absmax.view(scales) for tensor in tensors])
        for part in PARTS[1:]:
            values = [getattr(tensor, part) for tensor in tensors]
            if values[0] is not None:
                stack = torch.stack(values)
                found[f"{name}_{part}"] = stack.view(self.num_experts, *scales) if part == "zeros" else stack
        return found

    def set_quantized(self, name: str, tensors: list[QuantizedTensor]) -> None:
        """Take over the experts' matrices of a projection."""
        for key, tensor in self.stacked(name, tensors).items():
            setattr(self, key, nn.Parameter(tensor, requires_grad=False) if key == name else tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves go everywhere; casts leave the scales in float32, which define the weights."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            moved = self._buffers[name]
            if kept is not None and moved is not None and moved.dtype != kept.dtype:
                self._buffers[name] = kept.to(moved.device)
        return self

    def extra_repr(self) -> str:
        """What printing a model shows of this module."""
        sizes = ", ".join(f"{name} {inputs} -> {outputs}" for name, (outputs, inputs) in self.projections.items())
        return f"{self.num_experts} experts, {sizes}, {self.spec.quant_type}, block_size={self.spec.block_size}"
