"""How several rows become one batch of tensors: padded on the right, with nothing learned from padding."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quatro.data.encode import IGNORED
from quatro.data.tokens import Item

PAD = 0


def collate(items: Sequence[Item]) -> dict[str, Tensor]:
    """A batch of packed rows or of plain ones, whichever these are."""
    return packed_batch(items) if "position_ids" in items[0] else padded(items)


def padded(items: Sequence[Item]) -> dict[str, Tensor]:
    """input_ids, attention_mask, labels: int64 (batch, longest). The pad token is 0, whatever the tokenizer's: it is masked."""
    longest = max(len(item["input_ids"]) for item in items)
    return {
        "input_ids": _stacked(items, "input_ids", longest, PAD),
        "attention_mask": torch.stack([_ones(len(item["input_ids"]), longest) for item in items]),
        "labels": _stacked(items, "labels", longest, IGNORED),
    }


def packed_batch(items: Sequence[Item]) -> dict[str, Tensor]:
    """input_ids, labels, position_ids: int64 (batch, longest), and no attention mask.

    Without a mask, transformers reads the borders between documents from the positions; padding counts as one more document.
    """
    longest = max(len(item["input_ids"]) for item in items)
    positions = [np.append(item["position_ids"], np.arange(longest - len(item["input_ids"]))) for item in items]
    return {
        "input_ids": _stacked(items, "input_ids", longest, PAD),
        "labels": _stacked(items, "labels", longest, IGNORED),
        "position_ids": torch.from_numpy(np.stack(positions)),
    }


def _stacked(items: Sequence[Item], name: str, longest: int, filler: int) -> Tensor:
    rows = [np.pad(item[name], (0, longest - len(item[name])), constant_values=filler) for item in items]
    return torch.from_numpy(np.stack(rows))


def _ones(length: int, longest: int) -> Tensor:
    return (torch.arange(longest) < length).long()
