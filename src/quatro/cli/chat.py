"""`quatro chat`: talk with a model, with or without an adapter."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatro.cli.console import emit_json, say
from quatro.cli.models import load_model
from quatro.cli.repl import converse, write_answer
from quatro.format.errors import InputError, TemplateError

if TYPE_CHECKING:
    from quatro.cli.repl import Talk
    from quatro.generation import Sampling


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("chat")(chat)


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model directory, a hub id, or demo for the embedded base.")],
    adapter: Annotated[str | None, typer.Option(help="An adapter directory to put on it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Put the adapter on although it was made for other weights.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Ask this, print the answer, and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message before the conversation.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time; higher varies more.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that together have this probability.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 256,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends an answer, not shown; may be repeated.")] = None,
    template: Annotated[str, typer.Option(help="How a chat is written: auto is the tokenizer's own template.")] = "auto",
    raw: Annotated[bool, typer.Option("--raw", help="No chat: each line is a text that the model continues.")] = False,
    seed: Annotated[int, typer.Option(help="Where the chance begins when temperature is above 0.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="With --prompt: print one JSON object.")] = False,
) -> None:
    """Talk with a model in the terminal. Answers stream; /help shows the commands; Ctrl-C stops an answer, Ctrl-D ends."""
    _check(prompt, system, raw, as_json)
    from quatro.generation import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p)
    loaded, tokenizer = load_model(model, adapter, force=force)
    _seed(seed)
    stops = tuple(stop or ())
    if raw:
        talk: Talk = Continuation(loaded, tokenizer, sampling, stops)
    else:
        talk = _chat(loaded, tokenizer, system=system, sampling=sampling, template=template, stops=stops)
    if prompt is None:
        interactive = sys.stdin.isatty()
        if interactive:
            _greet(model, adapter, raw)
        converse(talk, interactive)
    elif as_json:
        emit_json({"prompt": prompt, "answer": "".join(talk.ask(prompt)), "model": model, "adapter": adapter})
    else:
        write_answer(talk.ask(prompt))


def _check(prompt: str | None, system: str | None, raw: bool, as_json: bool) -> None:
    """Refuse what would have no effect."""
    if as_json and prompt is None:
        raise InputError("--json prints one answer as JSON and needs --prompt TEXT")
    if raw and system:
        raise InputError("--system belongs to a chat; --raw has none: put the text in front of the prompt")
    if prompt is not None and not prompt.strip():
        raise InputError("--prompt is empty; give it a question")


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _chat(model: Any, tokenizer: Any, **options: Any) -> "Talk":
    from quatro.generation import Chat

    try:
        return Chat(model, tokenizer, **options)
    except TemplateError as error:
        raise TemplateError(f"{error}; --raw continues plain text without one") from error


@dataclass
class Continuation:
    """A conversation without memory: each text is continued by itself."""

    model: Any
    tokenizer: Any
    sampling: "Sampling"
    stops: tuple[str, ...] = ()

    def ask(self, text: str) -> Iterator[str]:
        """The continuation in pieces."""
        from quatro.generation import complete

        return complete(self.model, self.tokenizer, text, sampling=self.sampling, stops=self.stops)

    def undo(self) -> str | None:
        """Nothing is kept, so there is nothing to take back."""
        return None

    def reset(self) -> None:
        """Nothing is kept."""


def _greet(model: str, adapter: str | None, raw: bool) -> None:
    who = f"{model} with {adapter}" if adapter else model
    what = "Each line is continued as plain text." if raw else "Ask something."
    say(f"{who}. {what} /help shows the commands, Ctrl-D ends.", style="dim")
