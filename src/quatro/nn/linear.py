"""The linear layer on a frozen 4-bit weight."""

from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from quatro.format.errors import InputError, ShapeError
from quatro.format.layout import block_count, group_count, rows_hold_whole_blocks
from quatro.format.spec import QuantSpec
from quatro.kernels import ops
from quatro.kernels.compute import named_dtype, product_dtypes
from quatro.kernels.dispatch import chosen_name
from quatro.tensor.quantized import QuantizedTensor, quantize_with

PRECISIONS = ("high", "exact")
SCALES = ("absmax", "nested_absmax", "nested_offset", "zeros")


class LayerConfig(Protocol):
    """What from_linear reads: quatro.QuatroConfig has these, and so has anything alike."""

    @property
    def spec(self) -> QuantSpec: ...  # noqa: D102

    @property
    def compute_dtype(self) -> str: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102


class Linear4bit(nn.Linear):
    """y = x W^T + b with W (out, in) frozen in 4 bits; gradients flow to x and, if it is trained, to b.

    weight: uint8 (out, in / 2), first weight in the high nibble, a Parameter that takes no gradient.
    absmax: float32 scales, or uint8 with double quantization; (out, in / block_size) where blocks divide rows, else (blocks,).
    nested_absmax, nested_offset: float32 (groups,) and (), double quantization only. zeros: affine int4 only. bias: float32 (out,).
    compute_dtype: "auto", "float32", "bfloat16" or "float16". precision: "high" may use integer products, "exact" is float32 throughout.
    A new layer holds zeros; `from_linear`, `set_quantized` or a state dict fill it. Raises ShapeError for an odd in_features.
    """

    absmax: Tensor
    nested_absmax: Tensor | None
    nested_offset: Tensor | None
    zeros: Tensor | None
    transposed_source: bool = False
    """Whether checkpoints store this layer's dense weight as (in, out), as GPT-2's Conv1D does."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        spec: QuantSpec | None = None,
        compute_dtype: str = "auto",
        precision: str = "high",
        device: torch.device | str | None = None,
    ) -> None:
        super(nn.Linear, self).__init__()
        _check(in_features, out_features, compute_dtype, precision)
        self.in_features, self.out_features = in_features, out_features
        self.spec, self.precision = spec or QuantSpec(), precision
        # Not `compute_dtype`: PEFT takes an attribute of that name for the dtype that adapters must have.
        self.product_dtype = compute_dtype
        codes = torch.zeros(out_features, in_features // 2, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self._register_scales(device)
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features, device=device)) if bias else None)

    def _register_scales(self, device: torch.device | str | None) -> None:
        """Buffers with explicit dtypes, whatever torch's default dtype is while a model is built."""
        spec, blocks = self.spec, block_count(self.in_features * self.out_features, self.spec.block_size)
        shape, nested = self._scale_shape(blocks), spec.double_quant

        def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.register_buffer("absmax", empty(shape, torch.uint8 if nested else torch.float32))
        self.register_buffer("nested_absmax", empty((group_count(blocks),)) if nested else None)
        self.register_buffer("nested_offset", empty(()) if nested else None)
        self.register_buffer("zeros", None if spec.symmetric else empty(shape))

    def _scale_shape(self, blocks: int) -> tuple[int, ...]:
        aligned = rows_hold_whole_blocks(self.in_features, self.spec.block_size)
        return (self.out_features, self.in_features // self.spec.block_size) if aligned else (blocks,)

    @classmethod
    def from_linear(cls, linear: nn.Module, config: LayerConfig | QuantSpec | None = None, name: str = "weight") -> Self:
        """Quantize an nn.Linear, or a GPT-2 Conv1D, whose weight is stored as (in, out).

        name: what an error calls the weight. Raises NonFiniteError for NaN or Inf in it, ShapeError for odd rows.
        """
        dense, bias = linear.weight, linear.bias
        if not isinstance(dense, Tensor) or dense.dim() != 2:
            raise ShapeError(f"from_linear takes a layer with a two-dimensional weight, got {type(linear).__name__}")
        weight = dense.detach().T.contiguous() if is_conv1d(linear) else dense.detach()
        out_features, in_features = weight.shape
        options = {} if config is None else _options(config)
        layer = cls(in_features, out_features, bias=bias is not None, device="meta", **options)
        layer.set_quantized(quantize_with(weight, layer.spec, name))
        if isinstance(bias, Tensor):
            layer.bias = nn.Parameter(bias.detach().float(), requires_grad=bias.requires_grad)
        layer.train(linear.training)
        return layer

    @property
    def W_q(self) -> Tensor:
        """The packed codes, under the name by which PEFT knows quantized layers."""
        return self.weight

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight as a QuantizedTensor that shares this layer's storage."""
        return QuantizedTensor(
            self.weight.detach(),
            self.absmax,
            self.nested_absmax,
            self.nested_offset,
            self.zeros,
            torch.Size((self.out_features, self.in_features)),
            torch.float32,
            self.spec,
        )

    def set_quantized(self, tensor: QuantizedTensor) -> None:
        """Take over the parts of a (out, in) tensor that was quantized with this layer's spec."""
        if tuple(tensor.shape) != (self.out_features, self.in_features) or tensor.spec != self.spec:
            raise ShapeError(
                f"this layer holds {(self.out_features, self.in_features)} as {self.spec}, got {tuple(tensor.shape)} as {tensor.spec}"
            )
        self.weight = nn.Parameter(tensor.codes, requires_grad=False)
        for name, part in self.scale_parts(tensor).items():
            setattr(self, name, part)

    def scale_parts(self, tensor: QuantizedTensor) -> dict[str, Tensor]:
        """The tensor's scales by buffer name, in this layer's shapes."""
        shape = self._scale_shape(tensor.absmax.numel())
        parts = {
            "absmax": tensor.absmax.view(shape),
            "nested_absmax": tensor.nested_absmax,
            "nested_offset": tensor.nested_offset,
        }
        parts["zeros"] = None if tensor.zeros is None else tensor.zeros.view(shape)
        return {name: part for name, part in parts.items() if part is not None}

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The dense weight (out, in), float32 unless dtype says otherwise."""
        return self.quantized.dequantize(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in) -> (..., out) in the input's dtype, or autocast's."""
        if input.shape[-1] != self.in_features:
            raise ShapeError(f"this layer takes rows of {self.in_features}, got an input of shape {tuple(input.shape)}")
        if not input.dtype.is_floating_point:
            raise ShapeError(
                f"this layer takes floats, got {input.dtype}: were they cast to the dtype of its weight, which holds codes?"
            )
        output, compute = product_dtypes(input.dtype, input.device.type, self.product_dtype)
        parts = (self.weight, self.absmax, self.nested_absmax, self.nested_offset, self.zeros)
        meaning = (self.spec.quant_type, self.spec.table, self.spec.block_size)
        choices = (compute, self.precision, chosen_name(input.device.type))
        if nobody_watches(input):
            return ops.linear_now(input.to(output), ops.stored_weight(*parts, *meaning), self.bias, *choices)
        result: Tensor = ops.linear(input.to(output), *parts, self.bias, *meaning, *choices)
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves go everywhere; casts (.half(), .to(bfloat16)) leave the scales in float32, which define the weights."""
        before = {name: getattr(self, name) for name in SCALES}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            moved = getattr(self, name)
            if kept is not None and moved.dtype != kept.dtype:
                setattr(self, name, kept.to(moved.device))
        return self

    def extra_repr(self) -> str:
        """What printing a model shows of this layer."""
        spec = self.spec
        nested = ", double_quant" if spec.double_quant else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{spec.quant_type}, block_size={spec.block_size}{nested}"
        )


def nobody_watches(input: Tensor) -> bool:
    """Whether neither autograd, nor torch.compile, nor a subclass of Tensor needs to see an operation."""
    return not torch.is_grad_enabled() and type(input) is Tensor and not torch.compiler.is_compiling()


def is_conv1d(module: nn.Module) -> bool:
    """Whether a layer is GPT-2's Conv1D: a linear layer whose weight is stored transposed."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _options(config: LayerConfig | QuantSpec) -> dict[str, Any]:
    if isinstance(config, QuantSpec):
        return {"spec": config}
    return {"spec": config.spec, "compute_dtype": config.compute_dtype, "precision": config.precision}


def _check(in_features: int, out_features: int, compute_dtype: str, precision: str) -> None:
    if in_features % 2 or in_features <= 0 or out_features <= 0:
        raise ShapeError(
            f"a 4-bit layer needs an even in_features and at least one output, got {in_features} -> {out_features}"
        )
    if compute_dtype != "auto":
        named_dtype(compute_dtype)
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
