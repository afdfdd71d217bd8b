"""Rows of the corpus packed whole into sequences, with a weight for every token."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from pretrain.tokenizer import rows

CHUNK_ROWS, OPEN_BINS = 20_000, 48
WEIGHTS = {"system": 0.1, "user": 0.25, "assistant": 1.0, "text": 1.0}
"""Loss weight by role: invented names in profiles and questions cannot be foreseen and would drown the answers."""

Sample = tuple[np.ndarray, np.ndarray]


class Packer:
    """Turns corpus rows into token ids and weights, and fits whole rows into sequences of one length."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        self.core, self.length = tokenizer.backend_tokenizer, length
        self.begin, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.pad = tokenizer.pad_token_id
        self.roles = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("system", "user", "assistant")}

    def samples(self, items: list[dict]) -> list[Sample]:
        """Ids and weights of each row, equal to what the chat template gives."""
        segments = [_segments(item) for item in items]
        texts = [text for row in segments for _, text in row]
        encoded = iter(self.core.encode_batch_fast(texts, add_special_tokens=False))
        return [self._join([(role, next(encoded).ids) for role, _ in row]) for row in segments]

    def _join(self, parts: list[tuple[str, list[int]]]) -> Sample:
        ids, weights = [self.begin], [0.0]
        for role, inner in parts:
            if role != "text":
                ids.append(self.roles[role])
                weights.append(0.0 if role != "assistant" else 0.1)
            ids += [*inner, self.end]
            weights += [WEIGHTS[role]] * (len(inner) + 1)
        return np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float32)

    def pack(self, samples: list[Sample]) -> Iterator[Sample]:
        """First fit into a few open sequences; the fullest is closed when none fits. Too long rows are left out."""
        bins: list[list[Sample]] = []
        sizes: list[int] = []
        for sample in samples:
            size = len(sample[0])
            if size > self.length:
                continue
            place = next((at for at, used in enumerate(sizes) if used + size <= self.length), None)
            if place is None:
                if len(bins) == OPEN_BINS:
                    fullest = sizes.index(max(sizes))
                    sizes.pop(fullest)
                    yield self._close(bins.pop(fullest))
                bins.append([])
                sizes.append(0)
                place = len(bins) - 1
            bins[place].append(sample)
            sizes[place] += size

    def _close(self, bin_: list[Sample]) -> Sample:
        ids = np.full(self.length, self.pad, dtype=np.int64)
        weights = np.zeros(self.length, dtype=np.float32)
        joined = [np.concatenate(part) for part in zip(*bin_, strict=True)]
        ids[: len(joined[0])], weights[: len(joined[1])] = joined
        return ids, weights


def _segments(item: dict) -> list[tuple[str, str]]:
    if "text" in item:
        return [("text", item["text"])]
    return [(message["role"], message["content"]) for message in item["messages"]]


def batches(packer: Packer, count: int, seed: int = 100) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of `count` sequences: ids (count, length) int64 and weights (count, length) float32."""
    while True:
        packed = list(packer.pack(packer.samples(list(islice(rows(seed), CHUNK_ROWS)))))
        order = np.random.default_rng(seed).permutation(len(packed))
        for start in range(0, len(order) - count + 1, count):
            chosen = [packed[index] for index in order[start : start + count]]
            ids, weights = (torch.from_numpy(np.stack(part)) for part in zip(*chosen, strict=True))
            yield ids, weights
        seed += 1
