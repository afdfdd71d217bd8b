"""Layers beside the 4-bit ones that keep 16-bit weights while hidden states are wider."""

from typing import Self

from torch import Tensor, nn

from quatro.kernels.compute import dense_linear, hidden_dtype, product_dtypes


class DenseLinear(nn.Linear):
    """An nn.Linear for heads and skipped layers beside 4-bit ones.

    The weight stays a dense float Parameter in the checkpoint's dtype. On a CPU without units for it the product runs in
    float32 through one shared scratch copy, which autograd never keeps.
    """

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Self:
        """The same parameters, not copied, in a layer of this class."""
        dense = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        dense.weight, dense.bias = linear.weight, linear.bias
        dense.train(linear.training)
        return dense

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in) -> (..., out) in the input's dtype, or autocast's."""
        output, compute = product_dtypes(input.dtype, input.device.type, "auto")
        same = {input.dtype, self.weight.dtype, compute} | ({self.bias.dtype} if self.bias is not None else set())
        if len(same) == 1:
            return nn.functional.linear(input, self.weight, self.bias)
        result: Tensor = dense_linear(input, self.weight, self.bias, output, compute)
        return result


class DenseEmbedding(nn.Embedding):
    """An nn.Embedding whose 16-bit rows leave it in the dtype that hidden states have on its device: float32 on a CPU."""

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> Self:
        """The same parameter, not copied, in a layer of this class."""
        dense = cls(embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx, device="meta")
        dense.weight = embedding.weight
        dense.train(embedding.training)
        return dense

    def forward(self, input: Tensor) -> Tensor:
        """input (...) of token ids -> (..., embedding_dim)."""
        return super().forward(input).to(hidden_dtype(self.weight.dtype, self.weight.device.type))
