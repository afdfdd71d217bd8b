"""Every architecture in 4 bits beside the dense model of its dequantized weights; what was measured is the table in docs/models.md."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor

import quatro
from quatro.integrations.summary import left_behind
from tests.conformance import table
from tests.conformance.architectures import ARCHITECTURES, DROPPED, Architecture
from tests.twins import dense_twin, losses_of


@pytest.fixture(params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def architecture(name: str) -> Architecture:
    return ARCHITECTURES[name]


@pytest.fixture
def directory(architecture: Architecture, tmp_path: Path) -> Path:
    """A random model in bfloat16."""
    torch.manual_seed(0)
    kind = architecture.kind
    made = kind(architecture.made()) if hasattr(kind, "forward") else kind.from_config(architecture.made())
    made.to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def quantized(architecture: Architecture, directory: Path, **options: Any) -> Any:
    config = quatro.QuatroConfig(**options)
    return architecture.kind.from_pretrained(directory, quantization_config=config).eval()


def answer(model: Any, architecture: Architecture) -> Tensor:
    with torch.no_grad():
        return getattr(model(**architecture.inputs()), architecture.output).float()


def test_it_answers_as_the_dense_model_of_its_weights(architecture: Architecture, directory: Path) -> None:
    model = quantized(architecture, directory, precision="exact")
    found, expected = answer(model, architecture), answer(dense_twin(model, directory, architecture.kind), architecture)
    assert float((found - expected).norm()) <= architecture.close * float(expected.norm())
    assert left_behind(model) == {}


def test_saved_and_read_back_it_answers_the_same(architecture: Architecture, directory: Path, tmp_path: Path) -> None:
    model = quantized(architecture, directory)
    model.save_pretrained(tmp_path / "saved")
    again = architecture.kind.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(answer(again, architecture), answer(model, architecture))


@pytest.mark.filterwarnings(
    "ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"
)  # PEFT's own patterns for fused experts
def test_a_step_of_lora_on_all_its_linear_layers_lowers_the_loss(architecture: Architecture, directory: Path) -> None:
    model = get_peft_model(quantized(architecture, directory), LoraConfig(r=4, target_modules="all-linear")).eval()

    def loss() -> Tensor:
        if architecture.labels is None:
            return getattr(model(**architecture.inputs()), architecture.output).float().square().mean()
        return model(**architecture.inputs(), labels=architecture.labels).loss

    before, after = losses_of(model, loss, steps=1)
    assert after < before


def test_its_row_in_the_table_is_what_is_measured(name: str, architecture: Architecture, directory: Path) -> None:
    table.check(name, table.row(name, quantized(architecture, directory)))


@pytest.mark.parametrize("gone", DROPPED)
def test_a_name_that_transformers_dropped_is_reported(gone: str) -> None:
    assert gone not in transformers.CONFIG_MAPPING
    table.check(gone, table.dropped(gone, DROPPED[gone]))
