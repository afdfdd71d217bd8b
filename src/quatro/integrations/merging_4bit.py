"""A base in 4 bits and an adapter become one model in 4 bits that still knows what the adapter learned.

Rounding base + change again would erase a small change: most weights fall back onto the code they had. So the base with its adapter,
merged in floating point, teaches: codes and scales of the adapted layers are moved, on a text, until the 4-bit model answers as it does.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from quatro.format.errors import AdapterError, InputError
from quatro.integrations.adapters import checked_adapter
from quatro.integrations.base import forget, remembered_quantization
from quatro.integrations.config import QuatroConfig
from quatro.integrations.loading import load, load_tokenizer
from quatro.integrations.merging import merge_dense
from quatro.integrations.saving import save
from quatro.integrations.streaming import Progress
from quatro.nn.linear import Linear4bit
from quatro.quantizers import LatentLinear, distill
from quatro.tensor.quantized import quantize_with

STEPS = 100
ROWS = 8
LENGTH = 256
MEASURED = 40
"""At most so many windows of the text's last tenth are measured."""
LEAST = 0.5
"""The share of the adapter's gain below which a merge is refused."""


@dataclass(frozen=True)
class LayerReport:
    """How much of one layer's change is in its new 4-bit weight.

    change: |dW| / |W|. kept: the new weight's distance from the base along dW, as a share of |dW|: 1 is all, 0 none; it exceeds 1
    where the layer moved further than the adapter did. rounded: the same had base + change only been rounded.
    """

    name: str
    change: float
    kept: float
    rounded: float


@dataclass(frozen=True)
class MergeReport:
    """Mean losses in nats a token on the last tenth of the text, which taught nothing, and each adapted layer."""

    base: float
    adapter: float
    rounded: float
    merged: float
    layers: tuple[LayerReport, ...]

    @property
    def kept(self) -> float | None:
        """The share of the adapter's gain that the merged model has; None where the adapter gains nothing on this text."""
        return (self.base - self.merged) / (self.base - self.adapter) if self.adapter < self.base else None

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        losses = {"base": self.base, "adapter": self.adapter, "rounded": self.rounded, "merged": self.merged}
        return {"losses": losses, "gain_kept": self.kept, "layers": [vars(layer) for layer in self.layers]}


def merge_4bit(
    base: str | Path,
    adapter: str | Path,
    directory: str | Path,
    calibration: str | Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    config: QuatroConfig | None = None,
    force: bool = False,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, all: None,
) -> MergeReport:
    """Write a 4-bit model in the base's layout with the adapter's change in its codes and scales; say what of it survived.

    calibration: a text file like what the adapter was trained on; its first nine tenths teach, `steps` batches of 8 windows of 256
    tokens, its last tenth is measured. progress: told what is done, how far, and of how much. Norms, biases and what stays dense are the merged model's.
    Memory: the merged model in float32 and four float32 numbers a weight of the adapted layers.
    Raises AdapterError where less than half of the adapter's gain survived (unless force) or a layer cannot be merged, InputError for a
    text that is too short, CheckpointError, MachineError when the disk fails. Nothing is written then.
    """
    if steps < 1:
        raise InputError(f"steps {steps} is not possible; a merge takes at least 1")
    brought = checked_adapter(adapter)
    student, tokenizer = load(base, config=config or remembered_quantization(brought, precision="exact"))
    teaching, measured = _read(calibration, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        merged = Path(scratch) / "merged"
        merge_dense(base, brought, merged, config=config, force=force, progress=partial(progress, "merging"))
        teacher, tokenizer = _teacher(merged), load_tokenizer(merged)
    report = _Merge(student, teacher).run(_batches(teaching, steps, seed), measured, partial(progress, "teaching"))
    if not force:
        _check_kept(report)
    forget(student.config)
    save(student, directory, tokenizer, overwrite)
    return report


class _Merge:
    """The 4-bit model, its teacher, and the layers in which they differ."""

    def __init__(self, student: Any, teacher: Any) -> None:
        self.student, self.teacher = student, teacher
        found = ((name, module) for name, module in student.named_modules() if isinstance(module, Linear4bit))
        self.layers = {name: layer for name, layer in found if self._is_changed(name, layer)}
        if not self.layers:
            raise AdapterError("the adapter changes no 4-bit layer of this base; there is nothing to merge in 4 bits")
        self.before = {name: layer.dequantize() for name, layer in self.layers.items()}

    def _wanted(self, name: str, layer: Linear4bit) -> Tensor:
        weight = self.teacher.get_submodule(name).weight.detach()
        return weight.T.contiguous() if layer.transposed_source else weight

    def _is_changed(self, name: str, layer: Linear4bit) -> bool:
        stored = self.teacher.stored_dtype
        return not torch.equal(layer.dequantize().to(stored).float(), self._wanted(name, layer))

    def run(self, batches: list[Tensor], measured: Tensor, progress: Progress) -> MergeReport:
        """Leave the student merged."""
        losses = {"base": _loss(self.student, measured), "adapter": _loss(self.teacher, measured)}
        self._take_dense_parts()
        self._round()
        rounded = {name: layer.dequantize() for name, layer in self.layers.items()}
        losses["rounded"] = _loss(self.student, measured)
        self._distill(batches, progress)
        layers = tuple(self._layer_report(name, rounded[name]) for name in self.layers)
        return MergeReport(**losses, merged=_loss(self.student, measured), layers=layers)

    @torch.no_grad()
    def _take_dense_parts(self) -> None:
        wanted = dict(self.teacher.named_parameters())
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(False)
            if parameter.is_floating_point() and name in wanted:
                parameter.copy_(wanted[name])

    def _round(self) -> None:
        for name, layer in self.layers.items():
            layer.set_quantized(quantize_with(self._wanted(name, layer), layer.spec, name))

    def _distill(self, batches: list[Tensor], progress: Progress) -> None:
        moving = {name: self._latent(name, layer) for name, layer in self.layers.items()}
        self._place(moving)
        try:
            distill(_logits(self.student), _logits(self.teacher), moving.values(), batches, progress)
        finally:
            self._place(self.layers)
        for name, layer in self.layers.items():
            layer.set_quantized(moving[name].quantized())

    def _latent(self, name: str, layer: Linear4bit) -> LatentLinear:
        bias = None if layer.bias is None else layer.bias.detach()
        return LatentLinear(self._wanted(name, layer), layer.spec, bias, name)

    def _place(self, modules: Any) -> None:
        for name, module in modules.items():
            self.student.set_submodule(name, module)

    def _layer_report(self, name: str, rounded: Tensor) -> LayerReport:
        layer, before = self.layers[name], self.before[name]
        change = self._wanted(name, layer) - before
        size = float(change.norm() / before.norm())
        return LayerReport(name, size, _along(layer.dequantize() - before, change), _along(rounded - before, change))


def _along(moved: Tensor, change: Tensor) -> float:
    return float((moved * change).sum() / change.square().sum())


def _teacher(directory: Path) -> Any:
    """The merged model in float32. stored_dtype: what its weights were rounded to on the way."""
    teacher = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    teacher.stored_dtype = AutoConfig.from_pretrained(directory).dtype or torch.float32
    return teacher.requires_grad_(False)


def _logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda ids: model(input_ids=ids, use_cache=False).logits


def _read(file: str | Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Token ids that teach (count,), and windows to measure (windows, LENGTH)."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as a UTF-8 text ({error}); name a text like the adapter's own") from None
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)
    cut = len(ids) * 9 // 10
    if len(ids) - cut < LENGTH:
        raise InputError(f"{file} has {len(ids)} tokens; a merge needs {10 * LENGTH}, of which a tenth is measured")
    return ids[:cut], ids[cut:].unfold(0, LENGTH, LENGTH)[:MEASURED]


def _batches(ids: Tensor, steps: int, seed: int) -> list[Tensor]:
    """`steps` batches (ROWS, LENGTH) of windows from random places."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(ids) - LENGTH, (steps, ROWS), generator=generator)
    return list(ids[starts[..., None] + torch.arange(LENGTH)])


@torch.no_grad()
def _loss(model: Any, windows: Tensor) -> float:
    return sum(float(model(input_ids=row[None], labels=row[None]).loss) for row in windows) / len(windows)


def _check_kept(report: MergeReport) -> None:
    if report.kept is None:
        raise AdapterError(
            f"on this text the adapter gains nothing (loss {report.adapter:.3f}, the base's {report.base:.3f}), so nobody can say what "
            "survives; name a text like the adapter's own, or force the merge"
        )
    if report.kept < LEAST:
        raise AdapterError(
            f"only {report.kept:.0%} of the adapter's gain would survive in 4 bits (loss {report.merged:.3f}; the adapter's "
            f"{report.adapter:.3f}, the base's {report.base:.3f}); give more steps or text, merge densely, or force it"
        )
