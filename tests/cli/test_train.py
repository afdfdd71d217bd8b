"""`quatro train` through the command line's own door, as a newcomer meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quatro.cli.main import app

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama whose tokens are bytes."""
    directory = tmp_path_factory.mktemp("models") / "bytes"
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}?", "completion": f" {i}"}) + "\n" for i in range(12)))
    return str(path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit code, stdout, stderr) of a command line."""

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            app(["train", *args])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def test_flags_alone_train_an_adapter(run: Run, model: str, data: str, tmp_path: Path) -> None:
    flags = ("--model", model, "--data", data, "--output-dir", str(tmp_path / "run"), "--eval", "0.25")
    code, out, err = run(*flags, "train.max_steps=2", "lora.r=2")
    assert code == 0, err
    assert (tmp_path / "run" / "adapter_config.json").is_file()
    assert f"quatro chat {model} --adapter {tmp_path / 'run'}" in out
    assert "12 of 12 rows used" in err
    code, out, err = run(*flags, "train.max_steps=2", "lora.r=2")
    assert (code, out) == (2, "")
    assert "holds this run, finished; say --overwrite" in err


def test_a_recipe_with_flags_and_keys_over_it_speaks_json(run: Run, model: str, data: str, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(yaml.safe_dump({"model": "elsewhere", "data": {"train": data}, "output_dir": str(tmp_path / "run")}))
    code, out, _ = run(str(recipe), "--model", model, "data.eval=null", "train.max_steps=1", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["steps"], found["loss_after"], found["recipe"]["model"]) == (1, None, model)
    assert found["data"]["train"]["used"] == 12


def test_a_dry_run_shows_the_whole_recipe_and_trains_nothing(run: Run, model: str, data: str, tmp_path: Path) -> None:
    flags = ("--model", model, "--data", data, "--output-dir", str(tmp_path / "run"), "train.num_train_epochs=2", "--dry-run")
    code, out, _ = run(*flags)
    assert code == 0
    text, _, rest = out.partition("\n\n")
    assert yaml.safe_load(text)["data"]["max_length"] == 64
    assert "11 sequences to train on, 1 held out" in rest
    assert "2 steps" in rest
    assert json.loads(run(*flags, "--json")[1])["steps"] == 2
    assert not (tmp_path / "run").exists()
    code, _, err = run(*flags, "--output-dir", str(tmp_path))
    assert code == 2
    assert "is not empty and holds no run of quatro" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing says what to train: name a recipe (`quatro train RECIPE.yaml`), or give --model, --data, --output-dir"),
        (["--model", "MODEL", "--data", "DATA"], "or give --output-dir as well"),
        (["dmeo"], "no recipe 'dmeo'; did you mean 'demo'?"),
        (["missing.yaml"], "recipe missing.yaml does not exist"),
        (["demo", "other"], "one recipe at a time, got demo, other"),
        (["demo", "learning_rate=1"], "unknown key 'learning_rate'; did you mean 'train.learning_rate'?"),
        (["demo", "--resume", "--overwrite"], "--resume goes on with a run and --overwrite replaces it"),
        (["--model", "MODEL", "--data", "DATA", "--output-dir", "OUT", "--resume"], "holds no checkpoint to go on from"),
        (["--model", "MODEL", "--data", "OUT", "--output-dir", "OUT"], "does not exist"),
        (["--model", "MODEL", "--data", "MODEL", "--output-dir", "OUT"], "is a directory; data.train takes one file"),
        (["--model", "OUT", "--data", "DATA", "--output-dir", "OUT"], "does not exist"),
        (["--model", "MODEL", "--data", "DATA", "--output-dir", "DATA"], "is a file; name a directory"),
        (
            ["--model", "MODEL", "--data", "DATA", "--output-dir", "OUT", "optimizer.budget=12 gigs"],
            "size '12 gigs' cannot be read",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    run: Run, model: str, data: str, tmp_path: Path, words: list[str], said: str
) -> None:
    names = {"MODEL": model, "DATA": data, "OUT": str(tmp_path / "run")}
    code, out, err = run(*(names.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
