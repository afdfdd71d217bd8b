"""Where does an answer end? What a template writes behind one, and before the next question."""

from quatro.data.examples import Message
from quatro.data.templates import choose_template, render
from quatro.data.tokenizer import Tokenizer, token_lists

FIRST, SECOND, ANSWER = "quatro-first-question", "quatro-second-question", "quatro-answer"


def stop_strings(tokenizer: Tokenizer, template: str = "auto", kind: str = "messages") -> tuple[str, ...]:
    """Strings at which an answer is over: the template's end of turn and the opening of the next turn, without line breaks.

    An end of turn in hashes (### END.) stops at its hashes, so none is ever shown. Raises TemplateError without a template.
    """
    chosen = choose_template(template, tokenizer, kind)
    chat = [Message("user", FIRST), Message("assistant", ANSWER), Message("user", SECOND)]
    between = render(chosen, tokenizer, chat).partition(ANSWER)[2].partition(SECOND)[0]
    end = render(chosen, tokenizer, chat[:2]).partition(ANSWER)[2].strip()
    opening = between.strip().removeprefix(end).strip() if end else between.strip()
    return _shortened([end, opening], tokenizer)


def stop_ids(tokenizer: Tokenizer, template: str = "auto", kind: str = "messages") -> tuple[int, ...]:
    """Tokens at which an answer is over: the end token, and stop strings that are one token."""
    pieces = token_lists(tokenizer, stop_strings(tokenizer, template, kind)) or []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    special = set(tokenizer.all_special_ids)
    return tuple(dict.fromkeys([*end, *(ids[0] for ids in pieces if len(ids) == 1 and ids[0] in special)]))


def _shortened(markers: list[str], tokenizer: Tokenizer) -> tuple[str, ...]:
    eos = tokenizer.eos_token or "\0"
    found = [marker.split(eos)[0].strip() or eos for marker in markers if marker]
    if found and found[0].startswith("###"):
        return ("###",)
    return tuple(dict.fromkeys(marker for marker in found if marker != "\0"))
