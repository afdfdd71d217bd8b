"""Every error quatro raises on purpose. Each message is a letter: what came, what is allowed, what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches


class QuatroError(Exception):
    """The root of the tree. `exit_code` is what a command line returns: 2 for bad input, 1 for failures of the machine."""

    exit_code = 2


class InputError(QuatroError, ValueError):
    """An argument, a file or a key that cannot be meant."""


class QuantTypeError(InputError):
    """A quant_type that does not exist, or does not allow what was asked of it."""


class BlockSizeError(InputError):
    """A block size outside the allowed ones."""


class CodebookError(InputError):
    """A code table that is unsorted, too short, too long or not finite."""


class ShapeError(InputError):
    """Tensors whose shapes, dtypes or devices do not fit together."""


class NonFiniteError(InputError):
    """NaN or Inf where numbers are needed."""

    def __init__(self, name: str, index: int, value: float) -> None:
        """name: the tensor's; index: of the first bad element, row-major and flattened; value: what stands there."""
        self.name, self.index, self.value = name, index, value
        super().__init__(
            f"{name} holds {value} at flat index {index}; a block with it has no scale. "
            "Repair or re-download the weights: every value must be finite"
        )


class BackendError(QuatroError):
    """No backend can run a call, or the one that was asked for refuses it."""


class CheckpointError(InputError):
    """A model directory or file that is missing, broken, or not what it says it is."""


class AdapterError(InputError):
    """An adapter that was made for another base, or is broken."""


class RecipeError(InputError):
    """A recipe with unknown keys, wrong types or impossible combinations."""


class DatasetError(InputError):
    """Training data that is missing, empty, unreadable or without a usable row."""


class TemplateError(InputError):
    """A chat without a template, or a template that cannot render it."""


class MachineError(QuatroError):
    """The machine failed, not the input: a full disk, a read-only directory, memory that ran out."""

    exit_code = 1


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """A clause for an error letter: the closest allowed word, if one is close, and then all of them."""
    allowed = sorted(allowed)
    close = get_close_matches(word, allowed, n=1, cutoff=0.6)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}choose one of {', '.join(allowed)}"
