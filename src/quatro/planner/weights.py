"""Bytes of a model's weights: as quatro holds them in 4 bits, or dense."""

from quatro.format.layout import stored_bytes
from quatro.format.spec import QuantSpec
from quatro.planner.skeleton import Skeleton
from quatro.planner.tensors import Role, Tensor

FLOAT32 = 4
_OWN_DTYPE = (Role.HEAD, Role.EMBEDDING, Role.BIAS)


def bytes_in_4_bits(skeleton: Skeleton, spec: QuantSpec, dtype_bytes: int = 2) -> dict[str, int]:
    """What `quatro.load` leaves in memory: {"codes and scales", "dense rest", "buffers": bytes}, exact to the byte.

    dtype_bytes: of a number in the checkpoint, which embeddings, heads and biases keep. Odd rows stay dense in it; norms, routers,
    convolutions and what a model keeps in float32 take 4.
    """
    packed = sum(_stored(tensor, spec) for tensor in skeleton.tensors if tensor.is_in_4_bits)
    dense = [t for t in skeleton.tensors if not t.is_in_4_bits and t.role is not Role.BUFFER]
    return {
        "codes and scales": packed,
        "dense rest": sum(t.parameters * _dense_bytes(t, dtype_bytes) for t in dense),
        "buffers": _buffer_bytes(skeleton, dtype_bytes),
    }


def bytes_dense(skeleton: Skeleton, dtype_bytes: int) -> dict[str, int]:
    """{"weights", "buffers": bytes} with every weight in one dtype."""
    return {"weights": skeleton.parameters * dtype_bytes, "buffers": _buffer_bytes(skeleton, dtype_bytes)}


def _stored(tensor: Tensor, spec: QuantSpec) -> int:
    """Each matrix, and each expert's, has blocks, groups and a mean of its own."""
    matrices = tensor.count * (tensor.shape[0] if len(tensor.shape) == 3 else 1)
    count = tensor.size // (tensor.shape[0] if len(tensor.shape) == 3 else 1)
    return matrices * stored_bytes(count, spec.block_size, spec.double_quant, not spec.symmetric)


def _dense_bytes(tensor: Tensor, dtype_bytes: int) -> int:
    return dtype_bytes if tensor.role in _OWN_DTYPE or tensor.role is Role.LINEAR else FLOAT32


def _buffer_bytes(skeleton: Skeleton, dtype_bytes: int) -> int:
    return sum(t.count * t.size * (t.itemsize or dtype_bytes) for t in skeleton.tensors if t.role is Role.BUFFER)
