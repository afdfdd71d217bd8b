"""What is a layer: linear layers on 4-bit weights, and the dense ones that stay beside them."""

from quatro.nn.dense import DenseEmbedding, DenseLinear
from quatro.nn.linear import Linear4bit

__all__ = ["DenseEmbedding", "DenseLinear", "Linear4bit"]
