"""Examples become tokens with labels: -100 where nothing is learned, the token itself where it is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from quatro.data.answers import Segment, answer_segments
from quatro.data.examples import Chat, Completion, Example, Message, Text
from quatro.data.templates import Template, apply, choose_template, render
from quatro.data.tokenizer import Tokenizer, opening_ids, token_lists
from quatro.format.errors import DatasetError, InputError, TemplateError, did_you_mean

IGNORED = -100
LOSS_ON = ("assistant", "all")
BATCH = 256


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens, and labels of the same length: -100 or the token. The first label is always -100: nothing predicts it."""

    input_ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        """How many tokens the loss counts."""
        return sum(label != IGNORED for label in self.labels)


def encode(
    example: Example, tokenizer: Tokenizer, max_length: int | None = None, template: str = "auto", loss_on: str = "assistant"
) -> Encoded:
    """One example as tokens and labels.

    loss_on: "assistant" learns the answers with their end of turn, "all" every token; a plain text is always learned whole.
    Raises DatasetError if it is longer than max_length or holds nothing to learn, TemplateError if no template can render it.
    """
    (result,) = Encoder(tokenizer, template, loss_on).encode([example])
    if isinstance(result, DatasetError):
        raise result
    if max_length is not None and len(result.input_ids) > max_length:
        raise DatasetError(f"{len(result.input_ids)} tokens, more than max_length {max_length}")
    return result


def render_prompt(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer, template: str = "auto") -> list[int]:
    """The tokens of a chat up to where the assistant is to speak, as training saw them. messages: {role, content} each."""
    chat = [Message(message["role"], message["content"]) for message in messages]
    return token_lists(tokenizer, [render(choose_template(template, tokenizer), tokenizer, chat, prompt=True)])[0]


class Encoder:
    """Encodes many examples with one tokenizer, in batches."""

    def __init__(self, tokenizer: Tokenizer, template: str = "auto", loss_on: str = "assistant") -> None:
        if loss_on not in LOSS_ON:
            raise InputError(f"unknown data.loss_on {loss_on!r}; {did_you_mean(loss_on, LOSS_ON)}")
        self.tokenizer, self.choice, self.loss_on = tokenizer, template, loss_on
        self.opening = opening_ids(tokenizer)
        self._templates: dict[str, Template] = {}

    def template(self, kind: str) -> Template:
        """The template for chats of a kind, looked up once."""
        if kind not in self._templates:
            self._templates[kind] = choose_template(self.choice, self.tokenizer, kind)
        return self._templates[kind]

    def encode(self, examples: Iterable[Example]) -> Iterator[Encoded | DatasetError]:
        """For each example its tokens, or the reason why it has none. Raises TemplateError if the template is at fault."""
        stream = iter(examples)
        while batch := list(islice(stream, BATCH)):
            yield from self._batch(batch)

    def _batch(self, batch: Sequence[Example]) -> Iterator[Encoded | DatasetError]:
        prepared = [self._prepared(example) for example in batch]
        marked = iter(tokens_of([part for part in prepared if isinstance(part, tuple)], self.tokenizer))
        for example, part in zip(batch, prepared, strict=True):
            found = next(marked) if isinstance(part, tuple) else part
            yield found if isinstance(found, DatasetError) else self._finished(example, found)

    def _prepared(self, example: Example) -> tuple[Segment, ...] | Encoded | DatasetError:
        try:
            return self._segments(example)
        except TemplateError:
            raise
        except DatasetError as reason:
            return reason

    def _segments(self, example: Example) -> tuple[Segment, ...] | Encoded:
        match example:
            case Text(text):
                return (Segment(text, True),)
            case Completion(prompt, completion):
                return (Segment(prompt, False), Segment(completion, True)) if prompt else (Segment(completion, True),)
            case Chat(messages, kind):
                template = self.template(kind)
                if template.marks_answers and self.tokenizer.is_fast:
                    return marked_by_template(template, self.tokenizer, messages)
                return answer_segments(template, self.tokenizer, messages)

    def _finished(self, example: Example, found: Encoded) -> Encoded | DatasetError:
        ids, labels = found.input_ids, found.labels
        if not isinstance(example, Chat):
            ids, labels = self._enclosed(example, ids, labels)
        if self.loss_on == "all":
            labels = list(ids)
        labels = [IGNORED, *labels[1:]] if ids else []
        if all(label == IGNORED for label in labels):
            return DatasetError("no token to learn")
        return Encoded(ids, labels)

    def _enclosed(self, example: Example, ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
        """With the tokenizer's opening tokens, once, and the end token, once."""
        end = self.tokenizer.eos_token_id
        if end is None and isinstance(example, Completion):
            raise TemplateError("the tokenizer has no eos_token, so a completion would never end; give it one, or use chats")
        if ids[: len(self.opening)] != self.opening:
            ids, labels = [*self.opening, *ids], [*(IGNORED for _ in self.opening), *labels]
        if end is not None and ids[-1:] != [end]:
            ids, labels = [*ids, end], [*labels, end]
        return ids, labels


def tokens_of(marked: Sequence[tuple[Segment, ...]], tokenizer: Tokenizer) -> list[Encoded]:
    """Each text's tokens, with every boundary between segments also a boundary between tokens.

    The text is tokenized whole where the tokens of each beginning are the beginning of its tokens: then training sees what
    generation will see. Where a token straddles a boundary, segments are tokenized one by one.
    """
    beginnings = [_beginnings(segments) for segments in marked]
    ids = iter(token_lists(tokenizer, [text for texts in beginnings for text in texts]))
    return [
        _labelled(segments, [next(ids) for _ in texts], tokenizer) for segments, texts in zip(marked, beginnings, strict=True)
    ]


def _beginnings(segments: tuple[Segment, ...]) -> list[str]:
    texts, text = [], ""
    for segment in segments:
        text += segment.text
        texts.append(text)
    return texts


def _labelled(segments: tuple[Segment, ...], beginnings: list[list[int]], tokenizer: Tokenizer) -> Encoded:
    whole = beginnings[-1]
    if all(whole[: len(ids)] == ids for ids in beginnings):
        ends = [0, *(len(ids) for ids in beginnings)]
        pieces = [whole[start:end] for start, end in pairwise(ends)]
    else:
        pieces = [beginnings[0], *(_continuation(tokenizer, segment.text) for segment in segments[1:])]
    labels = [token if segment.learned else IGNORED for segment, piece in zip(segments, pieces, strict=True) for token in piece]
    return Encoded([token for piece in pieces for token in piece], labels)


def _continuation(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text that does not begin a line of thought: without the space some tokenizers put before a first word."""
    anchor, anchored, plain = token_lists(tokenizer, ["\n", f"\n{text}", text])
    return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else plain


def marked_by_template(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> Encoded:
    """Tokens and labels as a template's {% generation %} marks say, and the end token right behind a mark."""
    found = apply(template, tokenizer, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = list(found["input_ids"]), list(found["assistant_masks"])
    special = set(tokenizer.all_special_ids)
    for i in range(1, len(ids)):
        if mask[i - 1] and not mask[i] and ids[i] in special and ids[i - 1] not in special:
            mask[i] = 1
    return Encoded(ids, [token if learned else IGNORED for token, learned in zip(ids, mask, strict=True)])
