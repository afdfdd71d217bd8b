"""`--assume paper`: the assumptions that reproduce the memory bars of the QLoRA paper (arXiv 2305.14314, figure 6) for LLaMA.

They are not a plan: the paper's bars hold no double quantization, embeddings and head in float32, adapters of r = 64 on 18 rows of
`hidden` a layer (not on LLaMA's real shapes), and 16-bit weights of adapters and gradients beside float32 moments.
"""

from collections.abc import Mapping

from quatro.format.errors import InputError
from quatro.format.layout import block_count, code_bytes
from quatro.planner.plan import Part
from quatro.planner.skeleton import Skeleton

R, ROWS = 64, 18
"""18 hidden: of four attention matrices 8 and, were the feed-forward block 8/3 hidden wide, of its three 11; the paper's bars have 18."""
CONTEXT = 400 << 20
"""What the bars hold beyond weights: 330 to 570 MB of context and activations at batch 1, length 512 with checkpointing."""
FLOAT32, SIXTEEN_BITS = 4, 2
BLOCK = 64


def paper_parts(skeleton: Skeleton) -> Mapping[str, Part]:
    """The bars of one LLaMA: model, adapters, their gradients, their optimizer states. Raises InputError for another architecture."""
    if skeleton.kind != "llama":
        raise InputError(
            f"--assume paper is about the LLaMA models of the QLoRA paper, not about {skeleton.kind}; leave it out"
        )
    matrices = sum(tensor.parameters for tensor in skeleton.linears)
    layers = sum(stack.layers for stack in skeleton.stacks)
    trained = layers * R * ROWS * skeleton.hidden
    return {
        "4-bit weights": Part(
            code_bytes(matrices) + FLOAT32 * block_count(matrices, BLOCK), "4.5 bits: no double quantization"
        ),
        "embeddings and head": Part(FLOAT32 * skeleton.dense_parameters, "in float32"),
        "context and activations": Part(CONTEXT, "what the paper's bars hold beyond weights: 330 to 570 MB"),
        "adapters": Part(SIXTEEN_BITS * trained, f"r = {R}, {ROWS} hidden numbers a layer, 2 bytes each"),
        "gradients": Part(SIXTEEN_BITS * trained, "2 bytes each"),
        "optimizer states": Part(2 * FLOAT32 * trained, "AdamW, 8 bytes each"),
    }
