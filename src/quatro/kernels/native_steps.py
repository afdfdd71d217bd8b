"""Steps of optimizers in C++: one call for all parameters, in place, with the bits of quatro.kernels.reference_steps."""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from quatro.format.dynamic_map import dynamic_bins, signed_dynamic_map, unsigned_dynamic_map
from quatro.format.errors import ShapeError
from quatro.kernels.library import DynamicMap, check, library, machine
from quatro.kernels.library import Update as NativeUpdate
from quatro.kernels.updates import RULES, STATE_BLOCK, STATE_COUNT, Update


def optimizer_step(updates: list[Update], rule: str, bits: int) -> None:
    """Move parameters and states in place. rule: "adamw" or "lion". bits: 32 or 8, of the states."""
    for update in updates:
        _check(update, STATE_COUNT[rule], bits)
    table = (NativeUpdate * len(updates))(*(NativeUpdate(*_native(update)) for update in updates))
    check(library().quatro_optimizer_step(table, len(updates), RULES.index(rule), bits, _maps(), *machine()))


def _native(update: Update) -> tuple[float | int | None, ...]:
    states = [state.data_ptr() for state in update.states]
    absmax = [scale.data_ptr() for scale in update.absmax]
    s = update.scalars
    return (
        update.parameter.data_ptr(),
        update.gradient.data_ptr(),
        *(*states, None)[:2],
        *(*absmax, None, None)[:2],
        update.parameter.numel(),
        s.keep,
        s.beta1,
        1 - s.beta1,
        s.beta2,
        1 - s.beta2,
        s.unbias,
        s.epsilon,
        s.rate,
    )


def _check(update: Update, states: int, bits: int) -> None:
    count = update.parameter.numel()
    if len(update.states) != states or len(update.absmax) != (states if bits == 8 else 0):
        raise ShapeError(f"this step takes {states} states in {bits} bits, got {len(update.states)}")
    kind, blocks = torch.uint8 if bits == 8 else torch.float32, -(-count // STATE_BLOCK)
    _expect(update.parameter, torch.float32, count)
    _expect(update.gradient, torch.float32, count)
    for state in update.states:
        _expect(state, kind, count)
    for scale in update.absmax:
        _expect(scale, torch.float32, blocks)


def _expect(tensor: Tensor, dtype: torch.dtype, size: int) -> None:
    if tensor.dtype is not dtype or tensor.numel() != size or not tensor.is_contiguous() or not tensor.is_cpu:
        raise ShapeError(
            f"a step got {tensor.numel()} elements of {tensor.dtype} on {tensor.device} where it needs {size} contiguous ones of "
            f"{dtype} on cpu"
        )


@lru_cache(maxsize=1)
def _maps() -> "ctypes.Array[DynamicMap]":
    return (DynamicMap * 2)(*(_map(signed) for signed in (True, False)))


def _map(signed: bool) -> DynamicMap:
    bins, eight = dynamic_bins(signed), ctypes.c_float * 8
    edges = (ctypes.c_float * 6)(*bins.edges)
    return DynamicMap(ctypes.addressof(_values(signed)), edges, eight(*bins.steps), eight(*bins.starts), bins.top)


@lru_cache(maxsize=2)
def _values(signed: bool) -> "ctypes.Array[ctypes.c_float]":
    """Cached, so that the address stays good."""
    return (ctypes.c_float * 256)(*(signed_dynamic_map() if signed else unsigned_dynamic_map()))
