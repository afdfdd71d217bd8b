"""Did it help? Losses and answers on data that training never saw, of the base beside those of the adapter."""

from quatro.evaluate.compare import compare
from quatro.evaluate.comparison import Comparison, Row
from quatro.evaluate.facts import fact_share, states
from quatro.evaluate.held import Held, HeldOut, read_held_out, read_prompts
from quatro.evaluate.losses import held_out_loss

__all__ = [
    "Comparison",
    "Held",
    "HeldOut",
    "Row",
    "compare",
    "fact_share",
    "held_out_loss",
    "read_held_out",
    "read_prompts",
    "states",
]
