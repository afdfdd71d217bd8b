"""A linear layer that keeps its 16-bit weight and still takes and gives whatever dtype the hidden states have."""

from typing import Self

from torch import Tensor, nn

from quatro.kernels.compute import dense_linear, product_dtypes


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
        return dense_linear(input, self.weight, self.bias, output, compute)
