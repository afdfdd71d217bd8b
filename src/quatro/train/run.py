"""A run, from a recipe to an adapter with its report."""

import logging
import math
import time
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from quatro.data.collate import collate
from quatro.data.packing import packed
from quatro.data.prepare import Prepared, prepare
from quatro.integrations.files import whole_file
from quatro.integrations.loading import load_tokenizer
from quatro.kernels.compute import has_bf16_units
from quatro.train.activations import activation_pages
from quatro.train.apart import check_documents_stay_apart
from quatro.train.arguments import training_arguments
from quatro.train.curve import draw_losses, points
from quatro.train.directory import FIGURE, LOG, REPORT, RunDirectory, open_directory
from quatro.train.memory import PeakMemory, RunPlan, free_memory, give_back_at_once, run_plan
from quatro.train.model import adapted_model, reading_length, weight_counts
from quatro.train.optimizer import check_budget, paged_optimizer
from quatro.train.progress import ShowProgress
from quatro.train.recipe import Recipe
from quatro.train.report import write_report
from quatro.train.result import Result
from quatro.train.saving import save_adapter
from quatro.train.stopping import StopInTime, StopWhenAsked
from quatro.train.trainer import QuatroTrainer

logger = logging.getLogger("quatro")


def train(
    recipe: Recipe, *, resume: bool = False, overwrite: bool = False, force: bool = False, console: Console | None = None
) -> Result:
    """Train an adapter as the recipe says and write it, with its checkpoints and a report, to recipe.output_dir.

    The same recipe's unfinished run goes on from its last checkpoint, to the same losses. resume: insist on that. overwrite:
    replace a run that is there. force: start although the plan says that memory will not do. console: where to tell what happens; None is
    silent. Raises QuatroError's family.
    """
    memory = PeakMemory()
    console = console or Console(quiet=True)
    recipe, tokenizer = resolve(recipe)
    directory = open_directory(recipe, resume, overwrite)
    data = prepare_data(recipe, tokenizer)
    plan = run_plan(recipe, longest(recipe, data))
    _tell(console, [*data.summary.lines(), *([] if plan is None else [plan.line()])])
    if plan is not None:
        _make_room(plan, force)
    set_seed(recipe.train["seed"])
    model = adapted_model(recipe)
    check_budget(recipe, model)
    if recipe.data.packing:
        check_documents_stay_apart(model, model.get_input_embeddings().weight.shape[0])
    directory.begin(recipe)
    return _Run(recipe, tokenizer, data, model, directory, console, plan, memory).done()


def _make_room(plan: RunPlan, force: bool) -> None:
    """Refuse what cannot fit; where it barely does, let freed memory go back at once."""
    free = free_memory()
    if not force:
        plan.check(free)
    if plan.is_short(free) and give_back_at_once():
        logger.warning("memory is short, so what is freed goes back to the system at once; steps take about a third longer")


def longest(recipe: Recipe, data: Prepared) -> int:
    """Tokens of the longest sequence that a batch can have."""
    limit = recipe.data.max_length or 0
    return limit if recipe.data.packing else int(data.train.lengths.max())


def resolve(recipe: Recipe) -> tuple[Recipe, PreTrainedTokenizerBase]:
    """The recipe with its sequence length and precision decided, and the model's tokenizer. Raises CheckpointError without a model."""
    tokenizer = load_tokenizer(recipe.model)
    return recipe.decided(reading_length(recipe.model, recipe.data.max_length), has_bf16_units()), tokenizer


def prepare_data(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """What is trained on and what is held out. Raises DatasetError or TemplateError."""
    data = recipe.data
    return prepare(
        tokenizer,
        data.train,
        data.eval,
        format=data.format,
        template=data.template,
        max_length=data.max_length or reading_length(recipe.model, None),
        loss_on=data.loss_on,
        seed=recipe.train["seed"],
    )


class _Run:
    """One run while it happens."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        data: Prepared,
        model: PeftModel,
        directory: RunDirectory,
        console: Console,
        plan: RunPlan | None,
        memory: PeakMemory,
    ) -> None:
        self.plan, self.memory = plan, memory
        self.recipe, self.tokenizer, self.data, self.model = recipe, tokenizer, data, model
        self.directory, self.console = directory, console
        self.shown, self.stop = ShowProgress(console), StopWhenAsked(console)
        self.clock = StopInTime(recipe.max_hours or math.inf)
        self.trainer = self._trainer()

    def done(self) -> Result:
        """Train, evaluate, save, report."""
        started = time.monotonic()
        try:
            self._train()
            seconds = time.monotonic() - started - self.trainer.seconds_evaluating
            self._evaluate_once_more()
        finally:
            self.shown.close()
        save_adapter(self.model, self.tokenizer, self.data.template, self.directory.path)
        result = self._result(seconds)
        self._write_report(result)
        return result

    def _trainer(self) -> QuatroTrainer:
        rows = packed(self.data.train, self.recipe.data.max_length or 0) if self.recipe.data.packing else self.data.train
        arguments = self._arguments()
        trainer = QuatroTrainer(
            model=self.model,
            args=arguments,
            activations=activation_pages(self.recipe, self.model, self.directory.path),
            optimizer_cls_and_kwargs=paged_optimizer(self.recipe, arguments, self.directory.path),
            train_dataset=rows,
            eval_dataset=self.data.held,
            data_collator=collate,
            callbacks=[self.shown, self.stop, self.clock],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _arguments(self) -> TrainingArguments:
        evaluates = self.data.held is not None
        values = {**self.recipe.train, "eval_on_start": evaluates and self.directory.checkpoint is None}
        if not evaluates:
            values |= {"eval_strategy": "no"}
        if self.recipe.activations is not None:
            values |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        return training_arguments(values, str(self.directory.path))

    def _train(self) -> None:
        checkpoint = self.directory.checkpoint
        if checkpoint:
            _tell(self.console, [f"going on from {checkpoint}"])
        with self.stop.listening():
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.clock.check()

    def _evaluate_once_more(self) -> None:
        state = self.trainer.state
        steps, _ = points(state.log_history, "eval_loss")
        if self.data.held is not None and (state.global_step not in steps or self.trainer.args.load_best_model_at_end):
            self.trainer.evaluate()

    def _result(self, seconds: float) -> Result:
        state, path = self.trainer.state, self.directory.path
        trainable, parameters = weight_counts(self.model)
        _, held = points(state.log_history, "eval_loss")
        return Result(
            recipe=self.recipe,
            output_dir=path,
            adapter_dir=path,
            report=path / REPORT,
            data=self.data.summary,
            template=self.data.template.name if self.data.template else None,
            history=state.log_history,
            loss_before=held[0] if held else None,
            loss_after=held[-1] if held else None,
            steps=state.global_step,
            epochs=float(state.epoch or 0),
            seconds=seconds,
            tokens_per_second=self.trainer.tokens_trained / max(seconds, 1e-9),
            trainable=trainable,
            parameters=parameters,
            memory_planned=None if self.plan is None else self.plan.plan.total,
            memory_measured=self.memory.bytes(),
            resumed_from=int(self.directory.checkpoint.name.rpartition("-")[2]) if self.directory.checkpoint else None,
        )

    def _write_report(self, result: Result) -> None:
        """The report comes last: where it is, the run is finished."""
        path = self.directory.path
        with whole_file(path / LOG) as file:
            self.trainer.state.save_to_json(str(file))
        with whole_file(path / FIGURE) as file:
            draw_losses(
                result.history, file, f"{path.name}: an adapter on {Path(self.recipe.model).name} ({self.recipe.method})"
            )
        with whole_file(path / REPORT) as file:
            write_report(result, file)


def _tell(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def planned(recipe: Recipe, data: Prepared) -> dict[str, Any]:
    """What a run would be: its complete recipe, its data, its steps."""
    args = recipe.train
    rows = len(packed(data.train, recipe.data.max_length or 0)) if recipe.data.packing else len(data.train)
    batches = -(-rows // args["per_device_train_batch_size"])
    per_epoch = max(1, -(-batches // args["gradient_accumulation_steps"]))
    limit = args.get("max_steps", -1)
    steps = limit if limit > 0 else -(-int(per_epoch * args["num_train_epochs"] * 1000) // 1000)
    plan = run_plan(recipe, longest(recipe, data))
    memory = None if plan is None else {"planned": plan.plan.total, "free": free_memory()}
    return {"recipe": recipe.as_dict(), "data": data.summary.as_dict(), "rows": rows, "steps": steps, "memory": memory}
