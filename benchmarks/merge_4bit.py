"""What a merged 4-bit model keeps of a fine-tune: rounding, rounding that compensates, and codes and scales that are taught.

    python benchmarks/merge_4bit.py FIXTURES [--steps 100] [--threads N]

stories3M in nf4 with double quantization; LoRA r 16, alpha 32 on the seven linears of each layer, trained on the first 90 % of tinyshakespeare
on batches of 8 random windows of 256. Two adapters: 100 steps at 1e-3, and a small one, whose |dW|/|W| is below 1 %. Everything that is
calibrated sees the training split only; losses are of the last 10 %, its first 40 windows of 256. The gap is to the adapter, unmerged.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import print_table, surroundings, write_result
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import quatro
from quatro.integrations.merging_4bit import merge_4bit
from quatro.nn import Linear4bit
from quatro.quantizers import quantize_compensated
from quatro.tensor.quantized import QuantizedTensor, quantize_with

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {"tinyshakespeare": (1e-3, 100), "small": (1e-4, 16)}
CALIBRATION_ROWS = 128


def main() -> None:
    options = _options()
    found = surroundings("quatro", "torch", "transformers", "peft")
    results = {name: measure(options, *how) for name, how in ADAPTERS.items()}
    for name, result in results.items():
        print(
            f"{name}: |dW|/|W| {result['change']:.2%}, base {result['base']:.4f}, adapter {result['adapter']:.4f}, "
            f"taught in {result['seconds']:.0f} s"
        )
        rows = [[row["name"], *(f"{row[key]:.4f}" for key in COLUMNS)] for row in result["rows"]]
        print_table(f"{name}, held-out nats a token", ["", *COLUMNS], rows)
    write_result("merge_4bit", {"surroundings": found, "steps": options.steps, "results": results})


COLUMNS = ("loss", "gap", "of_rounding", "gain_kept")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def measure(options: argparse.Namespace, rate: float, steps: int) -> dict[str, Any]:
    """Losses of one adapter's merges."""
    source = options.fixtures / "models" / "stories3M"
    text = (options.fixtures / "text/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    base, tokenizer = quatro.load(source, precision="exact")
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    train, held = ids[: int(len(ids) * 0.9)], ids[int(len(ids) * 0.9) :]
    with tempfile.TemporaryDirectory() as directory:
        adapter, calibration, out = (Path(directory, name) for name in ("adapter", "train.txt", "merged"))
        calibration.write_text(tokenizer.decode(train, skip_special_tokens=True), encoding="utf-8")
        adapted = trained(base, train, rate, steps)
        adapted.save_pretrained(adapter)
        losses = {"adapter": loss(adapted, held)}
        weights = {name: layer_weight(layer) for name, layer in adapted_layers(adapted)}
        losses["base"] = loss(quatro.load(source, precision="exact")[0], held)
        models = {
            "rounded": with_weights(source, {name: quantize_with(w, quatro.QuantSpec()) for name, (w, _) in weights.items()}),
            "compensated (GPTQ)": with_weights(source, compensated(source, weights, train)),
        }
        start = time.perf_counter()
        merge_4bit(source, adapter, out, calibration, steps=options.steps, force=True)
        seconds = time.perf_counter() - start
        models["taught (quatro merge --mode 4bit)"] = quatro.load(out, precision="exact")[0]
        rows = [{"name": name, "loss": loss(model, held)} for name, model in models.items()]
    changed = sum(float(change.square().sum()) for _, change in weights.values())
    whole = sum(float((w - change).square().sum()) for w, change in weights.values())
    return {"change": (changed / whole) ** 0.5, "seconds": seconds, **losses, "rows": compared(rows, **losses)}


def compared(rows: list[dict[str, Any]], adapter: float, base: float) -> list[dict[str, Any]]:
    """Each loss beside the adapter's, the base's and rounding's, which is first."""
    naive = rows[0]["loss"] - adapter
    return [
        {**row, "gap": gap, "of_rounding": gap / naive, "gain_kept": (base - row["loss"]) / (base - adapter)}
        for row in rows
        for gap in (row["loss"] - adapter,)
    ]


def trained(base: nn.Module, ids: Tensor, rate: float, steps: int) -> PeftModel:
    """The recipe of the reference: AdamW, no decay, no schedule, windows drawn after seed 0."""
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    model.train()
    for _ in range(steps):
        batch = torch.stack([ids[start : start + 256] for start in torch.randint(0, len(ids) - 256, (8,))])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def adapted_layers(model: PeftModel) -> list[tuple[str, Any]]:
    """Layers with factors by the base's name."""
    return [(name, module) for name, module in model.get_base_model().named_modules() if hasattr(module, "get_delta_weight")]


def layer_weight(layer: Any) -> tuple[Tensor, Tensor]:
    """The merged weight and the change in it, both (out, in)."""
    change = layer.get_delta_weight("default").detach()
    return layer.get_base_layer().dequantize() + change, change


def with_weights(source: Path, weights: dict[str, QuantizedTensor]) -> nn.Module:
    """The base with other 4-bit weights."""
    model = quatro.load(source, precision="exact")[0]
    for name, weight in weights.items():
        model.get_submodule(name).set_quantized(weight)
    return model


@torch.no_grad()
def compensated(source: Path, weights: dict[str, tuple[Tensor, Tensor]], ids: Tensor) -> dict[str, QuantizedTensor]:
    """Rounded against what the merged model's layers saw of the training split."""
    model = quatro.load(source, precision="exact")[0]
    hessians: dict[str, Tensor] = {}
    for name, (weight, _) in weights.items():
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight
        layer.register_forward_pre_hook(_gather(hessians, name))
        assert isinstance(model.get_submodule(name), Linear4bit)
        model.set_submodule(name, layer)
    starts = torch.randint(0, len(ids) - 256, (CALIBRATION_ROWS,), generator=torch.Generator().manual_seed(1))
    for start in starts:
        model(ids[start : start + 256][None])
    return {
        name: quantize_compensated(weight, hessians[name], quatro.QuantSpec(), name=name)
        for name, (weight, _) in weights.items()
    }


def _gather(hessians: dict[str, Tensor], name: str) -> Any:
    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2)
        hessians[name] = hessians.get(name, 0) + x.T @ x

    return add


@torch.no_grad()
def loss(model: nn.Module, held: Tensor) -> float:
    windows = held.unfold(0, 256, 256)[:40]
    return sum(float(model(row[None], labels=row[None]).loss) for row in windows) / len(windows)


if __name__ == "__main__":
    main()
