"""What is asked of a plan: the method, the adapter, the batch, and the machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from quatro.format.errors import InputError, did_you_mean
from quatro.format.sizes import parse_size
from quatro.format.spec import QuantSpec
from quatro.planner.adapters import ALL_LINEAR
from quatro.planner.optimizers import Optimizer, optimizer_named

METHODS = ("full", "lora", "qlora")
DEVICES = ("gpu", "cpu")
CHECKPOINTING = ("none", "products", "all")
"""Nothing is computed again; all but the products with 4-bit weights is (gradient_checkpointing: true); everything is
(gradient_checkpointing_kwargs: {use_reentrant: false})."""
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Settings:
    """One training run, checked at birth. Raises InputError.

    batch: sequences a step; length: tokens of each; accumulation: batches before an optimizer's step. dtype: of the checkpoint's numbers; compute: of products, under autocast if 16
    bits. budget: bytes of optimizer states that stay resident where they are paged. threads: that a CPU computes with.
    """

    method: str = "qlora"
    r: int = 16
    targets: str | Sequence[str] = ALL_LINEAR
    batch: int = 1
    length: int = 512
    accumulation: int = 4
    optim: str = "paged_adamw_32bit"
    checkpointing: str = "none"
    dropout: float = 0.05
    dtype: str = "bfloat16"
    compute: str = "bfloat16"
    device: str = "gpu"
    budget: int | str = "256MiB"
    threads: int = 2
    spec: QuantSpec = field(default_factory=QuantSpec)

    def __post_init__(self) -> None:
        _check_word("method", self.method, METHODS)
        _check_word("device", self.device, DEVICES)
        _check_word("checkpointing", self.checkpointing, CHECKPOINTING)
        _check_word("dtype", self.dtype, DTYPES)
        _check_word("compute", self.compute, DTYPES)
        for name in ("batch", "length", "accumulation", "threads", "r"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of 1 or more, got {value!r}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise InputError(f"dropout is a share of the inputs, 0 or more and below 1; got {self.dropout!r}")
        object.__setattr__(self, "budget", parse_size(self.budget))
        _ = self.optimizer

    @property
    def optimizer(self) -> Optimizer:
        """What `optim` names."""
        return optimizer_named(self.optim)

    @property
    def tokens(self) -> int:
        """Of a step's batch."""
        return self.batch * self.length

    @property
    def resident_budget(self) -> int:
        """Bytes."""
        return parse_size(self.budget)

    @property
    def compute_bytes(self) -> int:
        """Of a number in a product's result."""
        return DTYPES[self.compute]


def _check_word(name: str, word: str, allowed: Sequence[str] | dict[str, int]) -> None:
    if word not in allowed:
        raise InputError(f"{name} {word!r} is unknown; {did_you_mean(str(word), allowed)}")
