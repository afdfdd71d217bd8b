"""What a row is, once it is understood: a chat, a prompt with its completion, or a text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. role: system, user, assistant or tool. input: the material of an Alpaca instruction, else empty."""

    role: str
    content: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """Turns that end with an assistant's. kind: the format it came from, which says what template is its natural one."""

    messages: tuple[Message, ...]
    kind: str = "messages"


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt, verbatim, and what follows it, verbatim; only the completion and the end token are learned."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text: every token is learned."""

    text: str


Example = Chat | Completion | Text
