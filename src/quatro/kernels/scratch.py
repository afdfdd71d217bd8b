"""One scratch buffer per device and thread, sized to the largest weight, that every dequantization of a product reuses."""

import threading
from math import prod

import torch
from torch import Tensor


class _Buffers(threading.local):
    """Bytes by device; a thread's products run one after the other, so one buffer is enough."""

    def __init__(self) -> None:
        self.by_device: dict[torch.device, Tensor] = {}


_buffers = _Buffers()


def scratch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialized tensor on the shared buffer, valid until the next call from this thread. Never hand it to autograd."""
    size = prod(shape) * dtype.itemsize
    return _at_least(size, device)[:size].view(dtype).view(shape)


def scratch_address(size: int, device: torch.device) -> int:
    """Where `size` bytes of the same buffer are, for kernels that take pointers; valid as long."""
    return _at_least(size, device).data_ptr()


def _at_least(size: int, device: torch.device) -> Tensor:
    buffer = _buffers.by_device.get(device)
    if buffer is None or buffer.numel() < size:
        _buffers.by_device.pop(device, None)
        del buffer
        buffer = torch.empty(size, dtype=torch.uint8, device=device)
        _buffers.by_device[device] = buffer
    return buffer


def scratch_bytes() -> int:
    """Bytes this thread's buffers hold now."""
    return sum(buffer.numel() for buffer in _buffers.by_device.values())
