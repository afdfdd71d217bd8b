"""What is a layer: linear layers on 4-bit weights, the dense ones that stay beside them, and the loss behind a head."""

from quatro.nn.cross_entropy import head_cross_entropy, head_losses
from quatro.nn.dense import DenseEmbedding, DenseLinear
from quatro.nn.linear import Linear4bit

__all__ = ["DenseEmbedding", "DenseLinear", "Linear4bit", "head_cross_entropy", "head_losses"]
