"""Merging into 4 bits so that the change survives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import quatro
from quatro.format.errors import AdapterError, InputError
from quatro.integrations.merging_4bit import MergeReport, merge_4bit
from quatro.nn import Linear4bit

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAINED = 40
RATE = 1e-4


@pytest.fixture(scope="module")
def stories(fixtures_dir: Path) -> Path:
    return fixtures_dir / "models" / "stories260K"


@pytest.fixture(scope="module")
def text(fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "calibration.txt"
    file.write_text((fixtures_dir / "text/tinyshakespeare/input.txt").read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def adapter(stories: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the first nine tenths of the text by steps so short that rounding loses most of what they changed."""
    torch.manual_seed(0)
    base, tokenizer = quatro.load(stories, precision="exact")
    ids = torch.tensor(tokenizer(text.read_text(encoding="utf-8"), verbose=False)["input_ids"])
    ids = ids[: len(ids) * 9 // 10]
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for _ in range(TRAINED):
        batch = torch.stack([ids[start : start + 128] for start in torch.randint(0, len(ids) - 128, (8,))])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    directory = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def merged(stories: Path, adapter: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MergeReport]:
    directory = tmp_path_factory.mktemp("merged") / "out"
    return directory, merge_4bit(stories, adapter, directory, text, steps=40)


@pytest.mark.fixtures
def test_a_change_that_rounding_erases_survives(merged: tuple[Path, MergeReport]) -> None:
    report = merged[1]
    changes = [layer.change for layer in report.layers]
    assert max(changes) < 0.05, changes
    rounded = (report.base - report.rounded) / (report.base - report.adapter)
    assert rounded < 0.5 < report.kept, (rounded, report)


@pytest.mark.fixtures
def test_the_report_has_every_adapted_layer_and_what_rounding_would_have_kept(merged: tuple[Path, MergeReport]) -> None:
    layers = merged[1].layers
    assert len(layers) == 5 * len(TARGETS)
    assert len({layer.name for layer in layers}) == len(layers)
    assert sum(layer.kept for layer in layers) > 2 * sum(layer.rounded for layer in layers)
    assert set(merged[1].as_data()) == {"losses", "gain_kept", "layers"}


@pytest.mark.fixtures
def test_what_is_written_is_the_bases_layout_and_answers_as_measured(
    merged: tuple[Path, MergeReport], stories: Path, text: Path
) -> None:
    model, tokenizer = quatro.load(merged[0], precision="exact")
    base = quatro.load(stories, precision="exact")[0]
    shapes = [{name: (tuple(t.shape), t.dtype) for name, t in each.state_dict().items()} for each in (model, base)]
    assert shapes[0] == shapes[1]
    ids = torch.tensor(tokenizer(text.read_text(encoding="utf-8"), verbose=False)["input_ids"])
    windows = ids[len(ids) * 9 // 10 :].unfold(0, 256, 256)[:40]
    with torch.no_grad():
        loss = sum(float(model(row[None], labels=row[None]).loss) for row in windows) / len(windows)
    assert abs(loss - merged[1].merged) < 1e-4


@pytest.mark.fixtures
def test_a_merge_that_keeps_little_is_refused_with_the_figure_unless_forced(
    stories: Path, adapter: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=r"only -?\d+% of the adapter's gain would survive"):
        merge_4bit(stories, adapter, tmp_path / "out", text, steps=1)
    assert not (tmp_path / "out").exists()
    assert merge_4bit(stories, adapter, tmp_path / "out", text, steps=1, force=True).kept < 0.5
    assert (tmp_path / "out" / "config.json").is_file()


def untrained(base: Path, directory: Path, **options: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)).save_pretrained(
        directory
    )
    return directory


@pytest.mark.fixtures
def test_what_cannot_be_merged_is_one_sentence(stories: Path, text: Path, tmp_path: Path) -> None:
    idle = untrained(stories, tmp_path / "idle")
    short = tmp_path / "short.txt"
    short.write_text("Once upon a time", encoding="utf-8")
    with pytest.raises(AdapterError, match="changes no 4-bit layer"):
        merge_4bit(stories, idle, tmp_path / "out", text)
    with pytest.raises(InputError, match="a merge needs 2560"):
        merge_4bit(stories, idle, tmp_path / "out", short)
    with pytest.raises(InputError, match="cannot be read"):
        merge_4bit(stories, idle, tmp_path / "out", tmp_path / "nothing.txt")
    with pytest.raises(InputError, match="steps 0"):
        merge_4bit(stories, idle, tmp_path / "out", text, steps=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.fixtures
def test_the_model_is_left_with_4_bit_layers_only(merged: tuple[Path, MergeReport]) -> None:
    model = quatro.load(merged[0])[0]
    assert sum(isinstance(module, Linear4bit) for module in model.modules()) == 5 * len(TARGETS)
