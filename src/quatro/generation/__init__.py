"""How answers come out of a model: streamed to a person in a chat, or in batches to be judged."""

from quatro.generation.answer import answers, continuations
from quatro.generation.chat import Chat, complete
from quatro.generation.sampling import Sampling

__all__ = ["Chat", "Sampling", "answers", "complete", "continuations"]
