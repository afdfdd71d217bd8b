"""The loss below the head is the model's own, or the model's own is taken and that is said."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from quatro.data.collate import collate, packed_batch, padded
from quatro.data.encode import IGNORED, Encoded
from quatro.data.packing import packed
from quatro.data.tokens import token_rows
from quatro.integrations.config import QuatroConfig
from quatro.kernels.compute import product_dtypes
from quatro.train.arguments import training_arguments
from quatro.train.head import refusal
from quatro.train.recipe import Recipe
from quatro.train.run import train
from quatro.train.trainer import QuatroTrainer

VOCABULARY = 97
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}  # fmt: skip
GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MODELS = {
    "llama": COMMON,
    "gpt2, whose head is its embedding": GPT,
    "gptj, whose head has a bias": {**GPT, "rotary_dim": 4},
    "gemma, which scales its embedding": {**COMMON, "head_dim": 8},
    "mixtral": {**COMMON, "num_local_experts": 4},
    "gemma2, which caps logits": {**COMMON, "head_dim": 8},
    "cohere, which scales logits": COMMON,
    "granite, which divides logits": {**COMMON, "logits_scaling": 8.0},
    "mixtral, which adds a loss": {
        **COMMON,
        "num_local_experts": 4,
        "output_router_logits": True,
        "router_aux_loss_coef": 1e-4,
    },
}


def built(name: str) -> Any:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name.partition(",")[0], **MODELS[name]))
    bias = model.get_output_embeddings().bias
    if bias is not None:
        nn.init.normal_(bias.data)
    return model


def adapted(name: str, **options: Any) -> Any:
    """With an adapter on attention that is not zero at first."""
    layers = {"target_modules": ["q_proj", "v_proj", "c_attn"], "fan_in_fan_out": name.startswith("gpt2")}
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, init_lora_weights=False, **{**layers, **options})
    return get_peft_model(built(name), config)


def trainer_of(model: Any, tmp_path: Path, **values: Any) -> QuatroTrainer:
    args = training_arguments(values, str(tmp_path / "somewhere"))
    return QuatroTrainer(model=model, args=args, eval_dataset=rows(), data_collator=collate)


def rows() -> Any:
    """Documents of different length; of each the first third has no loss."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in (9, 14, 5, 20, 7, 11)]
    return token_rows(Encoded(tokens, [IGNORED] * (len(tokens) // 3) + tokens[len(tokens) // 3 :]) for tokens in ids)


def packed_rows() -> dict[str, Tensor]:
    bins = packed(rows(), 32)
    return packed_batch([bins[i] for i in range(len(bins))])


def step(trainer: QuatroTrainer, batches: list[dict[str, Tensor]], whole: bool) -> tuple[Tensor, Tensor]:
    """The loss of an accumulated step and its gradient, all in one row; `whole`: by the model's own loss."""
    kept, trainer.head = trainer.head, None if whole else trainer.head
    trainer.model.zero_grad()
    trainer.model.eval()
    items = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    losses = [trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items) for batch in batches]
    sum(losses).backward()
    trainer.head = kept
    gradients = [parameter.grad.flatten() for parameter in trainer.model.parameters() if parameter.requires_grad]
    return sum(losses).detach(), torch.cat(gradients)


def assert_same_step(trainer: QuatroTrainer, batches: list[dict[str, Tensor]]) -> None:
    """Two roundings of the same loss, carried through a model: docs/numerics.md, "A model against its dequantized twin"."""
    assert trainer.head is not None
    loss, gradient = step(trainer, batches, whole=False)
    own, own_gradient = step(trainer, batches, whole=True)
    assert abs(loss - own) <= 1e-6 * own
    assert (gradient - own_gradient).norm() <= 1e-5 * own_gradient.norm()
    assert own_gradient.norm() > 1e-2


@pytest.mark.parametrize("name", list(MODELS)[:5])
@pytest.mark.parametrize("batch", [lambda: padded(list(rows())), packed_rows], ids=["padded", "packed"])
def test_loss_and_gradients_are_the_models_own(name: str, batch: Callable[[], Any], tmp_path: Path) -> None:
    assert_same_step(trainer_of(adapted(name), tmp_path), [batch()])


def test_a_16_bit_head_on_a_4_bit_base_gives_the_models_own_loss(tiny_llama: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=QuatroConfig(precision="exact"))
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules="all-linear", init_lora_weights=False)
    trainer = trainer_of(get_peft_model(base, config), tmp_path)
    assert trainer.head.layer.weight.dtype == torch.bfloat16
    batch = padded(list(rows()))
    assert_same_step(trainer, [{name: part.clamp(max=base.config.vocab_size - 1) for name, part in batch.items()}])


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    """Batches with different numbers of labels; one of them has none."""
    trainer = trainer_of(adapted("llama"), tmp_path)
    batches = [padded(list(rows())[:2]), padded(list(rows())[2:])]
    silent = {**batches[0], "labels": torch.full_like(batches[0]["labels"], IGNORED)}
    assert_same_step(trainer, [*batches, silent])
    loss, gradient = step(trainer, [*batches, silent], whole=False)
    once, same = step(trainer, [padded(list(rows()))], whole=False)
    torch.testing.assert_close(loss, once)
    torch.testing.assert_close(gradient, same, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(MODELS)[5:])
def test_a_model_whose_loss_is_more_than_its_heads_is_found_out(name: str) -> None:
    assert "the model's loss is not the cross-entropy behind its head alone" in refusal(adapted(name), True)


def test_an_adapter_on_the_head_keeps_whole_logits() -> None:
    model = get_peft_model(built("llama"), LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules=["q_proj", "lm_head"]))
    assert refusal(model, True) == "the model's head is Linear, not a plain linear layer"
    assert "ModulesToSaveWrapper" in refusal(adapted("llama", modules_to_save=["lm_head"]), True)


def test_a_prompt_in_front_of_every_row_keeps_whole_logits() -> None:
    model = get_peft_model(built("llama"), PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3))
    assert refusal(model, True) == "the model's head sees (2, 11) tokens where the labels are (2, 8)"


def test_a_model_that_looks_at_its_logits_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("llama")
    forward = type(model).forward

    def looks(self: Any, *args: Any, **options: Any) -> Any:
        found = forward(self, *args, **options)
        found.logits[:, -1]
        return found

    monkeypatch.setattr(type(model), "forward", looks)
    assert refusal(model, True).startswith("a probe without logits failed (index -1 is out of bounds")


@pytest.mark.parametrize("counts_items", [True, False])
def test_a_model_that_does_not_shift_its_labels_is_found_out(counts_items: bool) -> None:
    model = built("llama")
    assert refusal(model, counts_items) is None
    model.loss_function = lambda logits, labels, vocab_size, **_: nn.functional.cross_entropy(
        logits.view(-1, vocab_size), labels.view(-1)
    )
    assert "is not the cross-entropy behind its head alone" in refusal(model, counts_items)


def test_the_proof_leaves_no_trace() -> None:
    model = adapted("llama").train()
    before = torch.get_rng_state()
    assert refusal(model, True) is None
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (
            "gemma2, which caps logits",
            {},
            "losses are computed on whole logits, which take more memory: the model's loss is not",
        ),
        ("llama", {"label_smoothing_factor": 0.1}, "label_smoothing_factor is set"),
    ],
)
def test_whole_logits_are_said_once_and_trained_with(
    name: str, values: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "quatro"):
        args = training_arguments({"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, **values}, str(tmp_path))
        trainer = QuatroTrainer(
            model=adapted(name), args=args, train_dataset=rows(), eval_dataset=rows(), data_collator=collate
        )
        trainer.train()
    assert trainer.head is None
    assert [record.getMessage() for record in caplog.records if "whole logits" in record.getMessage()] == [
        record.getMessage() for record in caplog.records if said in record.getMessage()
    ]
    assert len(caplog.records) == 1
    assert len([entry for entry in trainer.state.log_history if "eval_loss" in entry]) == 2


def test_held_out_loss_is_the_same_below_the_head(tmp_path: Path) -> None:
    trainer = trainer_of(adapted("llama"), tmp_path, per_device_eval_batch_size=4)
    below = trainer.evaluate()["eval_loss"]
    trainer.head = None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(below, rel=1e-6)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_run_has_the_same_losses_with_whole_logits(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    """bfloat16 rounds a logit of some 5 by 2^-8 of it."""
    options = {"max_steps": 4, "gradient_checkpointing": True, "bf16": bf16}
    data = {"packing": True}
    below = train(recipe(train=options, data=data, output_dir=str(tmp_path / "below")))
    monkeypatch.setattr("quatro.train.trainer.refusal", lambda *_: "told to")
    whole = train(recipe(train=options, data=data, output_dir=str(tmp_path / "whole")))
    losses = [[entry.get("loss", entry.get("eval_loss")) for entry in run.history] for run in (below, whole)]
    assert losses[0][:-1] == pytest.approx(losses[1][:-1], abs=2e-2 if bf16 else 1e-5)


def test_mixed_precision_reaches_the_product_with_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: True)
    trainer = trainer_of(adapted("llama"), tmp_path, bf16=True)
    ran_in = []

    def spy(*args: Any) -> tuple[torch.dtype, torch.dtype]:
        ran_in.append(product_dtypes(*args)[1])
        return product_dtypes(*args)

    monkeypatch.setattr("quatro.nn.cross_entropy.product_dtypes", spy)
    trainer.evaluate()
    trainer.compute_loss(trainer.model, padded(list(rows())))
    assert ran_in == [torch.bfloat16] * 2


class LargestResult(TorchDispatchMode):
    """The most elements that a result of any operation had; the loss below the head is one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if torch.is_tensor(part) and part.dtype.is_floating_point:
                self.most = max(self.most, part.numel())
        return result


def test_no_step_and_no_evaluation_holds_logits(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **{**COMMON, "vocab_size": 1024})
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(task_type=TaskType.CAUSAL_LM))
    trainer = trainer_of(model, tmp_path)
    batch = padded(list(rows()))
    logits = batch["labels"].numel() * 1024
    with LargestResult() as below:
        trainer.compute_loss(model, dict(batch)).backward()
        trainer.prediction_step(model, dict(batch), False)
    trainer.head = None
    with LargestResult() as whole:
        trainer.compute_loss(model, dict(batch)).backward()
    assert whole.most >= logits
    assert below.most < logits / 2
