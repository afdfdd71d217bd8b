"""Memory that comes and goes within a step: the loss, the scratch buffer of products, and what a process holds beside tensors."""

from quatro.format.layout import rows_hold_whole_blocks
from quatro.planner.settings import DTYPES, Settings
from quatro.planner.skeleton import Skeleton

CHUNK_BYTES, LEAST_TOKENS = 2**25, 128
"""As in quatro.nn.cross_entropy: float32 logits of a chunk, and the fewest tokens of one."""
PANEL_BYTES = 4 << 20
"""As in quatro.kernels.compute: of a 16-bit head that is widened at a time."""
LINE = 64
FORWARD_OUTPUTS, FORWARD_INPUTS, BACKWARD_INPUTS, BACKWARD_OUTPUTS, BACKWARD_UNIT = 32, 256, 64, 128, 32
"""As in csrc/product.h."""
FLOAT32 = 4


def loss_bytes(skeleton: Skeleton, settings: Settings) -> int:
    """While the loss is taken: logits in float32 and in the dtype of the product, of a chunk or of all tokens, and the gradient to
    hidden states."""
    tokens, c = settings.tokens, settings.compute_bytes
    to_hidden = FLOAT32 * tokens * skeleton.hidden
    if not skeleton.in_chunks:
        return skeleton.vocabulary * tokens * (3 * FLOAT32 + (c if c != FLOAT32 else 0)) + to_hidden
    chunk = min(tokens, max(LEAST_TOKENS, CHUNK_BYTES // (FLOAT32 * skeleton.vocabulary)))
    return chunk * skeleton.vocabulary * (FLOAT32 + (c if c != FLOAT32 else 0)) + to_hidden + 2 * chunk * skeleton.hidden * c


def scratch_bytes(skeleton: Skeleton, settings: Settings) -> int:
    """The one buffer that serves every product with a 4-bit weight, as large as the largest of them needs."""
    shapes = {tensor.shape[-2:] for tensor in skeleton.linears if tensor.is_in_4_bits}
    if settings.method != "qlora" or not shapes:
        return 0
    if settings.device == "gpu":
        return max(outputs * inputs for outputs, inputs in shapes) * settings.compute_bytes
    head = skeleton.vocabulary * skeleton.hidden * settings.compute_bytes
    panel = min(PANEL_BYTES, head) if settings.compute_bytes != DTYPES[settings.dtype] else 0
    return max(panel, *(_on_cpu(outputs, inputs, settings) for outputs, inputs in shapes))


def _on_cpu(outputs: int, inputs: int, settings: Settings) -> int:
    if not rows_hold_whole_blocks(inputs, settings.spec.block_size):
        return outputs * inputs * settings.compute_bytes
    return max(_forward(inputs, settings), _backward(outputs, inputs, settings)) + LINE


def _forward(inputs: int, settings: Settings) -> int:
    rows, unit = settings.tokens, 32 if settings.spec.block_size == 32 else 64
    own = FORWARD_OUTPUTS * (2 * FORWARD_INPUTS + 8 * (inputs // 32) + 4 * rows)
    return _rows(rows, inputs, unit, sums=True) + settings.threads * _lines(own)


def _backward(outputs: int, inputs: int, settings: Settings) -> int:
    rows = settings.tokens
    own = BACKWARD_INPUTS * (2 * BACKWARD_OUTPUTS + 4 * rows) + 20 * (outputs + BACKWARD_UNIT)
    scales = _lines(FLOAT32 * outputs * (inputs // settings.spec.block_size))
    return _rows(rows, outputs, BACKWARD_UNIT, sums=False) + scales + settings.threads * _lines(own)


def _rows(rows: int, width: int, unit: int, sums: bool) -> int:
    units = -(-width // unit)
    scales = _lines(FLOAT32 * units * rows)
    return _lines(2 * units * rows * unit) + scales + _lines(FLOAT32 * rows) + (scales if sums else 0)


def _lines(count: int) -> int:
    return -(-count // LINE) * LINE
