"""Which sequences are held out? A fraction, the same for the same seed; what is equal stands on one side."""

import hashlib
import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from quatro.data.encode import Encoded
from quatro.format.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Split:
    """Indexes of the sequences on each side, in file order. by: "rows", or "end" where the text's end was held out."""

    train: list[int]
    held: list[int]
    by: str


def fingerprint(encoded: Encoded) -> bytes:
    """Equal for equal tokens with equal labels."""
    tokens = array("q", [*encoded.input_ids, *encoded.labels])
    return hashlib.blake2b(tokens.tobytes(), digest_size=12).digest()


def split(rows: Sequence[bytes], sequences: Sequence[bytes], fraction: float, seed: int, texts: bool) -> Split:
    """Hold out about a fraction of the distinct rows, at least one.

    rows, sequences: fingerprints for each sequence, of the row it came from and of itself. texts: plain text, of which the
    last sequences are held out where a fraction of the rows would be none. Raises DatasetError if one side would be empty.
    """
    distinct = list(dict.fromkeys(rows))
    if texts and len(distinct) * fraction < 1:
        last = sequences[-math.ceil(len(sequences) * fraction) :]
        return _divided(sequences, set(last), "end", fraction)
    random.Random(seed).shuffle(distinct)
    return _divided(rows, set(distinct[: max(1, round(len(distinct) * fraction))]), "rows", fraction)


def _divided(keys: Sequence[bytes], held_keys: set[bytes], by: str, fraction: float) -> Split:
    train = [index for index, key in enumerate(keys) if key not in held_keys]
    held = [index for index, key in enumerate(keys) if key in held_keys]
    if not train:
        different = len(set(keys))
        raise DatasetError(
            f"data.eval {fraction} leaves nothing to train on: there are {len(keys)} sequences, {different} of them different. "
            "Give more data, a smaller fraction, a file, or null for no evaluation"
        )
    return Split(train, held, by)
