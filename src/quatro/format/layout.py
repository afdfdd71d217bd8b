"""Where the bits of a 4-bit tensor lie, and how many there are.

    weights   w0   w1   w2   w3   ...            n, row-major, flattened
    codes    |w0 w1|w2 w3| ...                   (n + 1) // 2 bytes, the first weight in the high nibble
    blocks   |<- block_size ->|<- ...            one scale each, the last one may be short
    groups   |<- 256 blocks      ->|<- ...       double quantization: one float32 each, a byte a block

A module's codes are the same bytes seen as [out, in / 2]; its scales are [out, in / block_size] where blocks divide rows.
"""

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
GROUP = 256
"""Scales a group of double quantization (bitsandbytes' nested blocksize)."""
SMALLEST_SCALE = 1e-38
"""Scales are not divided by below this, so that a zero block gives zeros and no NaN (bitsandbytes' clamp)."""


def code_bytes(count: int) -> int:
    """Bytes that `count` codes take."""
    return (count + 1) // 2


def block_count(count: int, block_size: int) -> int:
    """Blocks that `count` weights make, a short last one included."""
    return -(-count // block_size)


def group_count(blocks: int) -> int:
    """Groups that `blocks` scales make."""
    return -(-blocks // GROUP)


def rows_hold_whole_blocks(in_features: int, block_size: int) -> bool:
    """Whether no block crosses from one row into the next: what fast kernels need."""
    return in_features % block_size == 0


def stored_bytes(count: int, block_size: int, double_quant: bool, affine: bool = False) -> int:
    """Bytes of one tensor of `count` weights: codes, scales, the float32 mean of double quantization, zero points."""
    blocks = block_count(count, block_size)
    scales = blocks + 4 * group_count(blocks) + 4 if double_quant else 4 * blocks
    return code_bytes(count) + scales + (4 * blocks if affine else 0)
