"""Which models can be planned, and the skeleton of one."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from quatro.format.errors import InputError
from quatro.planner.architectures import encoders, gpt, llama
from quatro.planner.fields import Fields
from quatro.planner.skeleton import Skeleton

MODELS: dict[str, Callable[[Fields], Skeleton]] = {
    **dict.fromkeys(llama.VARIANTS, llama.skeleton),
    **gpt.MODELS,
    **encoders.MODELS,
}
"""By model_type, as config.json has it. The output head is the one of the language model (masked, for RoBERTa)."""


def skeleton_of(config: Mapping[str, Any]) -> Skeleton:
    """A model's tensors and shapes from the values of its config.json.

    Raises InputError for a model_type that is missing or unknown (with the nearest ones), and for a field that is needed and missing.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise InputError(
            "the configuration has no model_type, which a plan needs; take the config.json that came with the weights"
        )
    if kind not in MODELS:
        close = get_close_matches(kind, MODELS, n=3, cutoff=0.5)
        guess = f"the nearest are {', '.join(close)}; " if close else ""
        raise InputError(f"model_type {kind!r} cannot be planned; {guess}known are {', '.join(sorted(MODELS))}")
    return MODELS[kind](Fields(config))
