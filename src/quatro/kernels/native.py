"""The C++ kernels of csrc through ctypes: the reference's functions and bits, at the speed of the memory.

Shapes are the reference's, flat; tensors must be contiguous and on the CPU.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from quatro.format.codebooks import CODES, CodeTable
from quatro.format.dynamic_map import signed_dynamic_map, signed_dynamic_thresholds
from quatro.format.errors import NonFiniteError, ShapeError
from quatro.format.integer_steps import has_integer_steps, integer_steps
from quatro.format.layout import GROUP, block_count, code_bytes, group_count, rows_hold_whole_blocks
from quatro.kernels.library import ISAS, NON_FINITE, Weight, check, isa, isa_refusal, library, load, machine
from quatro.kernels.native_steps import optimizer_step as optimizer_step
from quatro.kernels.products import StoredWeight
from quatro.kernels.reference import check_finite
from quatro.kernels.scratch import scratch_address

NAME = "native"
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_int64, _float = ctypes.c_int64, ctypes.c_float
LINE = 64
"""Alignment of a product's workspace."""


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot run on a device, or None."""
    if device.type != "cpu":
        return f"runs on the CPU only, not on {device.type}"
    loaded = load()
    return loaded if isinstance(loaded, str) else isa_refusal()


def instruction_set() -> str:
    """The instruction set that calls use now: the processor's best, or QUATRO_ISA if that is less. Raises BackendError if refused."""
    return ISAS[isa()]


def quantize(w: Tensor, table: CodeTable, block_size: int, affine: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """w (n,) -> codes, scales, zeros (None unless affine). Raises NonFiniteError for NaN or Inf."""
    dtype, count = _dtype_of("w", w), w.numel()
    codes = torch.empty(code_bytes(count), dtype=torch.uint8)
    scales = torch.empty(block_count(count, block_size), dtype=torch.float32)
    zeros = torch.empty_like(scales) if affine else None
    first_bad = _int64(-1)
    arguments = (*_search_tables(table), table.full_scale, *map(_address, (codes, scales, zeros)), ctypes.byref(first_bad))
    status = library().quatro_quantize(w.data_ptr(), dtype, count, block_size, *arguments, *machine())
    if status == NON_FINITE:
        raise NonFiniteError("w", first_bad.value, float(w.flatten()[first_bad.value]))
    check(status)
    return codes, scales, zeros


def dequantize(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, table: CodeTable, count: int, block_size: int, out: Tensor
) -> Tensor:
    """Write the first `count` weights to `out` (count,) of float32, bfloat16 or float16."""
    dtype, blocks = _dtype_of("out", out), block_count(count, block_size)
    _expect("out", out, out.dtype, count)
    _expect("codes", codes, torch.uint8, code_bytes(count))
    _expect("scales", scales, torch.float32, blocks)
    if zeros is not None:
        _expect("zeros", zeros, torch.float32, blocks)
    pointers = (_values(table), *map(_address, (scales, zeros, out)))
    check(library().quatro_dequantize(codes.data_ptr(), count, block_size, *pointers, dtype, *machine()))
    return out


def quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Double quantization: scales (blocks,) -> 8-bit codes (blocks,), absmax of each group of 256 float32, mean () float32."""
    count = scales.numel()
    _expect("scales", scales, torch.float32, count)
    codes, mean = torch.empty(count, dtype=torch.uint8), torch.empty((), dtype=torch.float32)
    group_absmax = torch.empty(group_count(count), dtype=torch.float32)
    pointers = map(_address, (codes, group_absmax, mean))
    status = library().quatro_quantize_scales(scales.data_ptr(), count, GROUP, _map_thresholds(), *pointers, *machine())
    if status == NON_FINITE:
        check_finite(scales, "scales")
    check(status)
    return codes, group_absmax, mean


def dequantize_scales(codes: Tensor, group_absmax: Tensor, mean: Tensor) -> Tensor:
    """Scales (blocks,) float32: map[code] * absmax of its group, plus the mean; each step rounded to float32."""
    count = codes.numel()
    _expect("codes", codes, torch.uint8, count)
    _expect("group_absmax", group_absmax, torch.float32, group_count(count))
    _expect("mean", mean, torch.float32, 1)
    scales = torch.empty(count, dtype=torch.float32)
    arguments = (_map_values(), group_absmax.data_ptr(), mean.item(), scales.data_ptr())
    check(library().quatro_dequantize_scales(codes.data_ptr(), count, GROUP, *arguments, *machine()))
    return scales


def integer_refusal(weight: StoredWeight) -> str | None:
    """Why a weight has no integer product here, or None."""
    _, inputs = weight.shape
    if not rows_hold_whole_blocks(inputs, weight.block_size):
        return f"blocks of {weight.block_size} do not divide rows of {inputs}"
    if not has_integer_steps(weight.table):
        return f"the values of table {weight.table.name} are too small to be shares of an absmax"
    return None


def integer_linear(x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
    """x (rows, in) -> x W^T + bias (rows, out) in x's dtype: products of 16-bit integers, summed exactly a unit of 64 at a time.

    The bits depend on nothing but the arguments. Relative error below 5e-4 (docs/numerics.md). A row with a NaN or an Inf becomes NaN.
    """
    outputs, inputs = weight.shape
    x = x.contiguous()
    dtype = _dtype_of("x", x)
    _expect("x", x, x.dtype, x.shape[0] * inputs)
    bias = None if bias is None else bias.float().contiguous()
    if bias is not None:
        _expect("bias", bias, torch.float32, outputs)
    out = torch.empty(x.shape[0], outputs, dtype=x.dtype)
    steps, steps_per_one = _steps(weight.table)
    arguments = (x.data_ptr(), dtype, x.shape[0], _address(bias), out.data_ptr(), _workspace(weight, x.shape[0]))
    check(library().quatro_linear(_weight(weight), steps, steps_per_one, *arguments, *machine()))
    return out


def integer_linear_backward(grad: Tensor, weight: StoredWeight) -> Tensor:
    """grad (rows, out) -> grad W (rows, in) in grad's dtype, as integer_linear."""
    outputs, inputs = weight.shape
    grad = grad.contiguous()
    dtype = _dtype_of("grad", grad)
    _expect("grad", grad, grad.dtype, grad.shape[0] * outputs)
    out = torch.empty(grad.shape[0], inputs, dtype=grad.dtype)
    arguments = (grad.data_ptr(), dtype, grad.shape[0], out.data_ptr(), _workspace(weight, grad.shape[0]))
    check(library().quatro_linear_backward(_weight(weight), *arguments, *machine()))
    return out


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, in) float32 -> x W^T + bias (rows, out) float32, for a dense weight (out, in) of 16 bits that is not copied.

    For few rows: the weight is read once for every four of them. The bits depend on nothing but the arguments.
    """
    outputs, inputs = weight.shape
    x, weight, rows = x.contiguous(), weight.contiguous(), x.shape[0]
    _expect("x", x, torch.float32, rows * inputs)
    dtype = _dtype_of("weight", weight)
    if bias is not None:
        bias = bias.float().contiguous()
        _expect("bias", bias, torch.float32, outputs)
    out = torch.empty(rows, outputs)
    arguments = (weight.data_ptr(), dtype, outputs, inputs, x.data_ptr(), rows, _address(bias), out.data_ptr())
    check(library().quatro_dense_linear(*arguments, *machine()))
    return out


def _weight(weight: StoredWeight) -> "ctypes._Pointer[Weight] | object":
    """The C view of a weight, after every part of it was found to be as large as the kernels will read."""
    outputs, inputs = weight.shape
    blocks, nested = outputs * inputs // weight.block_size, weight.nested_absmax is not None
    _expect("codes", weight.codes, torch.uint8, outputs * inputs // 2)
    _expect("absmax", weight.absmax, torch.uint8 if nested else torch.float32, blocks)
    for name, part, count in (
        ("nested_absmax", weight.nested_absmax, group_count(blocks)),
        ("nested_offset", weight.nested_offset, 1),
        ("zeros", weight.zeros, blocks),
    ):
        if part is not None:
            _expect(name, part, torch.float32, count)
    absmax, mean = weight.absmax.data_ptr(), _address(weight.nested_offset)
    scales = (None, absmax) if nested else (absmax, None)
    parts = (*scales, _address(weight.nested_absmax), mean, _address(weight.zeros))
    return ctypes.byref(_weight_at(weight.table, weight.codes.data_ptr(), (outputs, inputs, weight.block_size), parts))


@lru_cache(maxsize=8192)
def _weight_at(table: CodeTable, codes: int, sizes: tuple[int, int, int], parts: tuple[int | None, ...]) -> Weight:
    """Addresses and sizes only, so that a layer's is made once."""
    values, scale_map = _values(table), _map_values()
    absmax, nested, *others = parts
    found = Weight(codes, *sizes, ctypes.addressof(values), absmax, nested, GROUP, ctypes.addressof(scale_map), *others)
    found.kept_alive = values, scale_map
    return found


def _workspace(weight: StoredWeight, rows: int) -> int:
    """The address of memory for one product, on the shared scratch buffer."""
    size = _workspace_bytes(*weight.shape, weight.block_size, rows, torch.get_num_threads())
    return -(-scratch_address(size + LINE, weight.codes.device) // LINE) * LINE


@lru_cache(maxsize=1024)
def _workspace_bytes(outputs: int, inputs: int, block_size: int, rows: int, threads: int) -> int:
    size: int = library().quatro_product_workspace(outputs, inputs, block_size, rows, threads)
    if size < 0:
        raise ShapeError(f"no product has {rows} rows with a weight of {outputs} x {inputs} in blocks of {block_size}")
    return size


def _dtype_of(name: str, tensor: Tensor) -> int:
    if tensor.dtype not in DTYPES:
        raise ShapeError(f"{name} is {tensor.dtype}; the native kernels take {', '.join(map(str, DTYPES))}")
    _expect(name, tensor, tensor.dtype, tensor.numel())
    return DTYPES[tensor.dtype]


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, count: int) -> None:
    """Raise ShapeError unless the tensor is `count` contiguous elements of dtype in main memory: a pointer to it is about to be used."""
    fits = tensor.numel() == count and tensor.dtype is dtype and tensor.is_contiguous() and tensor.is_cpu
    if not fits:
        layout = "contiguous" if tensor.is_contiguous() else "strided"
        raise ShapeError(
            f"{name} is {tensor.numel()} {layout} elements of {tensor.dtype} on {tensor.device}; "
            f"the native kernels need {count} contiguous ones of {dtype} on cpu"
        )


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _floats(values: Sequence[float]) -> ctypes.Array[ctypes.c_float]:
    return (_float * len(values))(*values)


@lru_cache(maxsize=256)
def _search_tables(table: CodeTable) -> tuple[ctypes.Array[ctypes.c_float], ctypes.Array[ctypes.c_uint8]]:
    """Thresholds padded with +inf to 15, and sorted position -> code."""
    thresholds = _floats([*table.thresholds, *[float("inf")] * (CODES - 1 - len(table.thresholds))])
    return thresholds, (ctypes.c_uint8 * CODES)(*table.order)


@lru_cache(maxsize=256)
def _values(table: CodeTable) -> ctypes.Array[ctypes.c_float]:
    return _floats(table.padded_values)


@lru_cache(maxsize=256)
def _steps(table: CodeTable) -> tuple[ctypes.Array[ctypes.c_int16], float]:
    steps, steps_per_one = integer_steps(table)
    return (ctypes.c_int16 * CODES)(*steps), steps_per_one


@lru_cache(maxsize=1)
def _map_thresholds() -> ctypes.Array[ctypes.c_float]:
    return _floats(signed_dynamic_thresholds())


@lru_cache(maxsize=1)
def _map_values() -> ctypes.Array[ctypes.c_float]:
    return _floats(signed_dynamic_map())
