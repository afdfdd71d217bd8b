"""The C++ library of csrc, loaded once through ctypes: its functions, and the instruction set that calls use.

It lies in `_native/` of this package and is loaded at the first call. QUATRO_ISA=scalar|avx2|avx512 caps the instruction set.
"""

import ctypes
import logging
import os
from functools import lru_cache
from pathlib import Path

import torch  # first, so that both use one OpenMP pool

import quatro.kernels
from quatro.format.errors import BackendError, InputError, did_you_mean

logger = logging.getLogger("quatro")

ABI = 3
ISAS = ("scalar", "avx2", "avx512")
"""Instruction sets by their number in quatro.h, each containing the ones before."""
OK, NON_FINITE = 0, 2
FILE = "_native/libquatro.so"


_pointer, _int, _int64, _float = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "quatro_abi": (_int, []),
    "quatro_best_isa": (_int, []),
    "quatro_status_text": (ctypes.c_char_p, [_int]),
    "quatro_quantize": (
        _int,
        [_pointer, _int, _int64, _int64, _pointer, _pointer, _float, _pointer, _pointer, _pointer, _pointer, _int, _int],
    ),
    "quatro_dequantize": (_int, [_pointer, _int64, _int64, _pointer, _pointer, _pointer, _pointer, _int, _int, _int]),
    "quatro_quantize_scales": (_int, [_pointer, _int64, _int64, _pointer, _pointer, _pointer, _pointer, _int, _int]),
    "quatro_dequantize_scales": (_int, [_pointer, _int64, _int64, _pointer, _pointer, _float, _pointer, _int, _int]),
    "quatro_product_workspace": (_int64, [_int64, _int64, _int64, _int64, _int]),
    "quatro_linear": (
        _int,
        [_pointer, _pointer, _float, _pointer, _int, _int64, _pointer, _pointer, _pointer, _int, _int],
    ),
    "quatro_linear_backward": (_int, [_pointer, _pointer, _int, _int64, _pointer, _pointer, _int, _int]),
    "quatro_dense_linear": (
        _int,
        [_pointer, _int, _int64, _int64, _pointer, _int64, _pointer, _pointer, _int, _int],
    ),
    "quatro_optimizer_step": (_int, [_pointer, _int64, _int, _int, _pointer, _int, _int]),
}


class Weight(ctypes.Structure):
    """quatro_weight. kept_alive: what its addresses point to and nobody else holds."""

    kept_alive: tuple[object, ...]

    _fields_ = [
        ("codes", _pointer), ("outputs", _int64), ("inputs", _int64), ("block", _int64), ("table", _pointer), ("absmax", _pointer),
        ("nested", _pointer), ("group", _int64), ("map", _pointer), ("group_absmax", _pointer), ("mean", _pointer), ("zeros", _pointer),
    ]  # fmt: skip


class Update(ctypes.Structure):
    """quatro_update."""

    _fields_ = [
        ("parameter", _pointer), ("gradient", _pointer), ("first", _pointer), ("second", _pointer), ("first_absmax", _pointer),
        ("second_absmax", _pointer), ("count", _int64), ("keep", _float), ("beta1", _float), ("rest1", _float), ("beta2", _float),
        ("rest2", _float), ("unbias", _float), ("epsilon", _float), ("rate", _float),
    ]  # fmt: skip


class DynamicMap(ctypes.Structure):
    """quatro_dynamic_map."""

    _fields_ = [("values", _pointer), ("edges", _float * 6), ("steps", _float * 8), ("starts", _float * 8), ("top", _float)]


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    file = next((path for folder in quatro.kernels.__path__ if (path := Path(folder, FILE)).is_file()), None)
    if file is None:
        return f"is not built: no {FILE} in {' or '.join(quatro.kernels.__path__)}; `pip install .` builds it and needs a C++ compiler"
    try:
        library = ctypes.CDLL(str(file))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return f"cannot be loaded: {error}; build it again with `pip install .`"
    if library.quatro_abi() != ABI:
        return f"is built for interface {library.quatro_abi()}, this quatro needs {ABI}; build it again with `pip install .`"
    return library


def library() -> ctypes.CDLL:
    """The library. Raises BackendError where there is none."""
    loaded = load()
    if isinstance(loaded, str):
        raise BackendError(f"native {loaded}")
    return loaded


def isa_refusal() -> str | None:
    """Why QUATRO_ISA cannot be obeyed, or None."""
    asked = os.environ.get("QUATRO_ISA", ISAS[-1])
    return None if asked in ISAS else f"does not know the instruction set QUATRO_ISA={asked!r}; {did_you_mean(asked, ISAS)}"


def isa() -> int:
    """The number of the instruction set that calls use now."""
    isa = _isa_at_most(os.environ.get("QUATRO_ISA", ISAS[-1]))
    if isa == 0:
        _say_scalar()
    return isa


@lru_cache(maxsize=8)
def _isa_at_most(asked: str) -> int:
    refused = isa_refusal()
    if refused:
        raise BackendError(f"native {refused}")
    best: int = library().quatro_best_isa()
    return min(best, ISAS.index(asked))


@lru_cache(maxsize=1)
def _say_scalar() -> None:
    logger.warning(
        "quatro's CPU kernels run without vector instructions, slower than they could: no AVX2, or QUATRO_ISA=scalar"
    )


def machine() -> tuple[int, int]:
    """The last two arguments of every kernel: instruction set and threads."""
    return isa(), torch.get_num_threads()


def check(status: int) -> None:
    """Raise InputError for a call that the kernels refuse."""
    if status != OK:
        raise InputError(f"the native kernels refuse this call: {library().quatro_status_text(status).decode()}")
