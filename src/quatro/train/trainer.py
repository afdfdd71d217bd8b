"""transformers' Trainer, with four promises more: no whole logits, a stop at NaN, held-out loss by tokens, whole checkpoints."""

import logging
import math
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput
from transformers.training_args import ParallelMode

from quatro.data.encode import IGNORED
from quatro.format.errors import MachineError
from quatro.integrations.base import base_of, write_record
from quatro.train.activations import ActivationPages
from quatro.train.checkpointing import KeepProducts
from quatro.train.directory import CHECKPOINT, last_checkpoint
from quatro.train.head import Head, refusal
from quatro.train.saving import DISK_ERRORS

logger = logging.getLogger("quatro")


class QuatroTrainer(Trainer):
    """Overrides compute_loss, prediction_step, evaluation_loop and _save_checkpoint; a test pins that Trainer calls them.

    activations: where what a forward pass saves is kept within a budget. head: where the loss is computed in chunks, or None where it
    needs whole logits, and then the log says why.
    """

    def __init__(self, activations: ActivationPages | None = None, **options: Any) -> None:
        self.activations = activations
        super().__init__(compute_metrics=token_loss, **options)
        self.add_callback(StopAtBrokenGradient())
        self.add_callback(KeepProducts())
        self.tokens_trained = 0
        self.seconds_evaluating = 0.0
        self.head = self._head()

    def _head(self) -> Head | None:
        reason = needs_whole_logits(self.args) or refusal(self.model, self.model_accepts_loss_kwargs)
        if reason is None:
            return Head(self.model.get_output_embeddings())
        logger.warning("losses are computed on whole logits, which take more memory: %s", reason)
        return None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's loss. Raises MachineError if it is not a number."""
        if model.training:
            self.tokens_trained += _token_count(inputs)
        with self.activations.hooks() if self.activations and model.training else nullcontext():
            return self._loss(model, inputs, return_outputs, num_items_in_batch)

    def _loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Tensor | int | None
    ) -> Any:
        if self.head is None or return_outputs:
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            with self.accelerator.autocast():
                found = self.head.loss(model, inputs, num_items_in_batch)
        self._check_finite(found[0] if return_outputs else found)
        return found

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(mean loss, what token_losses keeps of each row, labels). Raises MachineError for a loss that is not a number."""
        if self.head is None:
            loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)
            return loss, token_losses(logits, labels), labels
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            rows = self.head.row_losses(model, inputs)
        total, count = rows.sum(0)
        self._check_finite(total / count)
        return total / count, rows, inputs["labels"]

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss).all():
            raise MachineError(broken("loss", loss.item(), self.state.global_step, self.args))

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:
        """Trainer's own, whose mean over batches is replaced by the mean over tokens: it does not depend on the batches."""
        started = time.monotonic()
        output = super().evaluation_loop(*args, **options)
        self.seconds_evaluating += time.monotonic() - started
        prefix = options.get("metric_key_prefix", "eval")
        output.metrics[f"{prefix}_loss"] = output.metrics.pop(f"{prefix}_token_loss")
        return output

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A checkpoint is whole or absent. Raises MachineError if it cannot be written."""
        place = Path(self.args.output_dir) / f"{CHECKPOINT}{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if isinstance(self.model, PeftModel):
                write_record(base_of(self.model.get_base_model()), place)
        except DISK_ERRORS as error:
            shutil.rmtree(place, ignore_errors=True)
            raise MachineError(
                f"could not write {place}: {_first_line(error)}. Nothing of it was kept{_kept(place.parent)}. "
                "Free space and start the same command again"
            ) from error


class StopAtBrokenGradient(TrainerCallback):
    """A loss can be finite and its gradient not; one step with it would fill the adapter with NaN."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Raises MachineError before the step is taken."""
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            raise MachineError(broken("gradient", norm, state.global_step, args))


def needs_whole_logits(args: TrainingArguments) -> str | None:
    """Which argument of a run keeps its loss from being computed below the head, if one does."""
    if args.label_smoothing_factor:
        return "label_smoothing_factor is set"
    if args.torch_compile or args.use_liger_kernel:
        return "torch_compile or use_liger_kernel is set"
    if args.parallel_mode != ParallelMode.NOT_PARALLEL:
        return "several devices train"
    return None


def broken(what: str, value: float, step: int, args: Any) -> str:
    """The letter of a run that stops because a number is none."""
    kept = _kept(Path(args.output_dir))
    return (
        f"the {what} became {value} at step {step + 1}, and the run stopped before the weights took harm{kept}. "
        f"Lower train.learning_rate (now {args.learning_rate}), and look at the data of that step"
    )


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each row (sum of -log p over learned tokens, their number), float32 (batch, 2): all of the logits that is kept."""
    if isinstance(logits, tuple):
        logits = logits[0]
    targets = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    return torch.stack([losses.sum(1), (targets != IGNORED).sum(1).float()], dim=1)


def token_loss(prediction: EvalPrediction) -> dict[str, float]:
    """The mean over all learned tokens of all rows, in nats."""
    total, count = prediction.predictions.astype("float64").sum(0)
    return {"token_loss": float(total / count)}


def _token_count(inputs: dict[str, Any]) -> int:
    mask = inputs.get("attention_mask")
    return int(mask.sum()) if mask is not None else int(inputs["input_ids"].numel())


def _kept(run: Path) -> str:
    checkpoint = last_checkpoint(run)
    return f"; {checkpoint.name} is whole" if checkpoint else ""


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
