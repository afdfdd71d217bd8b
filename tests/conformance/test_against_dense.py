"""Every architecture in 4 bits beside the dense model of its dequantized weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import quatro
from quatro.integrations.summary import left_behind, summarize
from quatro.nn import Linear4bit
from quatro.nn.experts import Experts4bit
from tests.conformance.architectures import ARCHITECTURES, Architecture

LEAST_IN_4_BITS = 0.7
"""Of all weights; embeddings of 96 words are a large part of models so small."""


def dense_twin(model: Any, architecture: Architecture, directory: Path) -> Any:
    twin = getattr(transformers, architecture.auto).from_pretrained(directory, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            dense = module.dequantize()
            twin.get_submodule(name).weight.data.copy_(dense.T if module.transposed_source else dense)
        if isinstance(module, Experts4bit):
            for projection in module.projections:
                dense = module.dequantize(projection)
                stored = dense.transpose(1, 2) if module.transposed_source else dense
                getattr(twin.get_submodule(name), projection).data.copy_(stored)
    return twin.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_answers_as_the_dense_model_of_its_weights_also_when_saved_and_read_back(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    auto = getattr(transformers, architecture.auto)
    torch.manual_seed(0)
    auto.from_config(architecture.made(), dtype=torch.bfloat16).save_pretrained(tmp_path / "dense")
    exact = quatro.QuatroConfig(precision="exact")
    model = auto.from_pretrained(tmp_path / "dense", quantization_config=exact).eval()
    twin = dense_twin(model, architecture, tmp_path / "dense")
    with torch.no_grad():
        found, expected = (found(**architecture.inputs()).logits.float() for found in (model, twin))
    assert float((found - expected).norm()) <= architecture.close * float(expected.norm())
    assert summarize(model).share_in_4bit >= LEAST_IN_4_BITS
    assert left_behind(model) == {}
    model.save_pretrained(tmp_path / "saved")
    again = auto.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        assert torch.equal(again(**architecture.inputs()).logits.float(), found)
