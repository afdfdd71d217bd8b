import numpy as np

from quatro.data.collate import packed_batch, padded
from quatro.data.encode import IGNORED


def _item(*ids: int) -> dict[str, np.ndarray]:
    tokens = np.array(ids, dtype=np.int64)
    return {
        "input_ids": tokens,
        "labels": np.where(np.arange(len(ids)) > 0, tokens, IGNORED),
        "position_ids": np.arange(len(ids)),
    }


def test_padding_is_masked_and_never_learned_and_equal_tokens_in_the_text_still_are() -> None:
    """The pad token is 0; a text that holds a 0 keeps its label and its place in the mask."""
    batch = padded([_item(7, 0, 8), _item(5, 0)])
    assert batch["input_ids"].tolist() == [[7, 0, 8], [5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 0, 8], [IGNORED, 0, IGNORED]]


def test_padding_of_a_packed_batch_is_a_document_of_its_own() -> None:
    batch = packed_batch([_item(7, 0, 8, 9), _item(5, 6)])
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 0, 8, 9], [IGNORED, 6, IGNORED, IGNORED]]
