"""A model without its numbers: its tensors, and the shapes that decide what a training step keeps."""

from dataclasses import dataclass

from quatro.planner.tensors import Role, Tensor, parameter_count


@dataclass(frozen=True)
class Stack:
    """Layers of one kind. Widths are numbers a token.

    keys: of the keys, as many of the values. inner: between the two products of a feed-forward block; of all experts that a token
    goes through. gated: whether that is a product of two. norms: of rows of `hidden`. norm_head: whether queries and keys have
    norms of their own. shifted: LayerNorm, not RMSNorm. whole_attention: whether all scores are in memory, heads x length a
    token. activation: its name. crossed: whether a second attention reads the encoder.
    parallel: whether attention and feed-forward read the same hidden states. joined: whether one
    product gives queries, keys and values.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    keys: int
    inner: int
    gated: bool
    activation: str
    norms: int = 2
    norm_head: bool = False
    shifted: bool = False
    whole_attention: bool = False
    rotated: bool = True
    crossed: bool = False
    parallel: bool = False
    joined: bool = False
    experts_per_token: int = 1

    @property
    def queries(self) -> int:
        """Numbers a token."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Skeleton:
    """A model of type `kind` with its tensors, tied ones once; stacks of layers; the head's (vocabulary, hidden).

    own_head: whether the loss is the head's cross-entropy alone, so that it is taken in chunks and whole logits never exist.
    longest: tokens that it can read, or None.
    """

    kind: str
    tensors: tuple[Tensor, ...]
    stacks: tuple[Stack, ...]
    vocabulary: int
    hidden: int
    longest: int | None
    in_chunks: bool = True

    @property
    def parameters(self) -> int:
        """All weights."""
        return parameter_count(self.tensors)

    @property
    def linears(self) -> tuple[Tensor, ...]:
        """The linear layers other than the output: what "all-linear" adapts, and what becomes 4 bits."""
        return tuple(tensor for tensor in self.tensors if tensor.is_linear)

    @property
    def packed_parameters(self) -> int:
        """Weights as they are stored, two in a byte counting as one: what PEFT's and torch's counters show."""
        return sum(tensor.count * tensor.size // 2 if tensor.is_in_4_bits else tensor.parameters for tensor in self.tensors)

    @property
    def largest_linear(self) -> tuple[int, int]:
        """(out, in) of the largest linear layer."""
        shapes = [tensor.shape[-2:] for tensor in self.linears] or [(0, 0)]
        return max(((out, into) for out, into in shapes), key=lambda shape: shape[0] * shape[1])

    @property
    def dense_parameters(self) -> int:
        """Of embeddings and heads."""
        return sum(t.parameters for t in self.tensors if t.role in (Role.EMBEDDING, Role.HEAD))
