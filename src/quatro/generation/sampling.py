"""How the next token is chosen: one frozen value, checked at birth."""

from dataclasses import dataclass

from transformers import GenerationConfig

from quatro.format.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """Greedy unless temperature says otherwise. What a checkpoint's own generation_config recommends does not apply.

    max_new_tokens: the longest answer. temperature: 0 is greedy, 1 the model's own distribution.
    top_p: sample from the smallest set of tokens with this much probability; 1 is all of them. Raises InputError.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; an answer needs at least 1")
        if not 0 <= self.temperature <= 10:
            raise InputError(f"temperature is {self.temperature}; it goes from 0 (always the likeliest token) to 10")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it is a probability above 0 and up to 1")

    def config(self, end_ids: list[int], pad_id: int) -> GenerationConfig:
        """transformers' form of it. Every knob has a value, so that none is inherited from the checkpoint."""
        sampled = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0} if self.temperature else {}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=bool(self.temperature),
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=end_ids or None,
            pad_token_id=pad_id,
            **sampled,
        )
