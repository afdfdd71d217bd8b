"""Which backend runs a call. The choice is loud: a backend says why it refuses, and what is slower than possible is said once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from quatro.format.codebooks import CodeTable
from quatro.format.errors import BackendError, did_you_mean
from quatro.kernels import native, reference
from quatro.kernels.compiling import constant_when_compiled
from quatro.kernels.products import StoredWeight
from quatro.kernels.updates import Update

logger = logging.getLogger("quatro")


class Backend(Protocol):
    """What a backend offers. Bits are those of quatro.kernels.reference, and so are the signatures."""

    NAME: str

    def refusal(self, device: torch.device) -> str | None:
        """Why this backend cannot run on a device, or None."""

    def quantize(
        self, w: Tensor, table: CodeTable, block_size: int, affine: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weights (n,) -> codes, scales, zeros."""

    def dequantize(
        self, codes: Tensor, scales: Tensor, zeros: Tensor | None, table: CodeTable, count: int, block_size: int, out: Tensor
    ) -> Tensor:
        """Codes -> weights, written to out."""

    def quantize_scales(self, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scales -> 8-bit codes, group absmax, mean."""

    def dequantize_scales(self, codes: Tensor, group_absmax: Tensor, mean: Tensor) -> Tensor:
        """8-bit codes -> scales."""

    def optimizer_step(self, updates: list[Update], rule: str, bits: int) -> None:
        """Parameters and states, in place."""

    def integer_refusal(self, weight: StoredWeight) -> str | None:
        """Why this backend has no integer product for a weight, or None."""

    def integer_linear(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        """x (rows, in) -> (rows, out) in x's dtype."""

    def integer_linear_backward(self, grad: Tensor, weight: StoredWeight) -> Tensor:
        """grad (rows, out) -> (rows, in) in grad's dtype."""


@dataclass(frozen=True)
class BackendStatus:
    """A line of `quatro doctor`: refusal is None where the backend would run."""

    name: str
    device: str
    refusal: str | None


ORDER: tuple[Backend, ...] = (native, reference)
"""Fastest first."""
_asked: ContextVar[str | None] = ContextVar("quatro_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every quatro call runs on this backend, or raises BackendError with its refusal."""
    names = [backend.NAME for backend in ORDER]
    if name not in names:
        raise BackendError(f"unknown backend {name!r}; {did_you_mean(name, names)}")
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def backends() -> list[BackendStatus]:
    """Every backend on every kind of device this machine has, and why each would not run."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [BackendStatus(b.NAME, device, b.refusal(torch.device(device))) for device in devices for b in ORDER]


@constant_when_compiled
def chosen_name(device_type: str) -> str:
    """The name of the backend that a call on this kind of device takes now. Raises BackendError if none can."""
    device, asked = torch.device(device_type), _asked.get()
    refusals: list[str] = []
    for backend in ORDER:
        if asked is not None and asked != backend.NAME:
            continue
        refusal = backend.refusal(device)
        if refusal is None:
            if asked is None:
                _speak_once(backend.NAME, device_type, tuple(refusals))
            return backend.NAME
        refusals.append(f"{backend.NAME} {refusal}")
    raise BackendError(f"no backend can run this call on {device_type}: {'; '.join(refusals)}")


def by_name(name: str) -> Backend:
    """The backend that `chosen_name` named."""
    return next(backend for backend in ORDER if name == backend.NAME)


def takes_integers(kernels: Backend, weight: StoredWeight) -> bool:
    """Whether a backend has an integer product for a weight. Where native has none it says so, once a reason."""
    refusal = kernels.integer_refusal(weight)
    if refusal is not None and kernels is native:
        _say_float_once(refusal)
    return refusal is None


@lru_cache(maxsize=64)
def _say_float_once(refusal: str) -> None:
    logger.warning("quatro multiplies some weights in floating point, slower than it could: %s", refusal)


@lru_cache(maxsize=64)
def _speak_once(name: str, device_type: str, refusals: tuple[str, ...]) -> None:
    """Say that a slower backend than the first runs, and why; once a process and reason."""
    if refusals:
        logger.warning("quatro runs on the %s backend for %s, slower than it could: %s", name, device_type, "; ".join(refusals))
