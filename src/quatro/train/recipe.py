"""What a run is: a frozen, complete and checked value. Its keys are the keys of the YAML file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from quatro.format.errors import InputError, RecipeError
from quatro.format.sizes import parse_size
from quatro.format.spec import QuantSpec
from quatro.kernels.compute import COMPUTE_DTYPES
from quatro.train.aliases import without_aliases
from quatro.train.arguments import REFUSED, argument_types, check_arguments
from quatro.train.letters import recipe_letter
from quatro.train.optimizer import PAGED

DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-4,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "num_train_epochs": 3,
    "warmup_steps": 0.03,
    "lr_scheduler_type": "constant_with_warmup",
    "optim": "paged_adamw_32bit",
    "max_grad_norm": 0.3,
    "eval_strategy": "steps",
    "logging_steps": 0.01,
    "eval_steps": 0.1,
    "save_steps": 0.1,
    "save_total_limit": 3,
    "seed": 42,
}
"""`train:` where a recipe says nothing; steps below 1 are shares of the whole run. Rates as in QLoRA, arXiv 2305.14314. bf16, without
bf16 or fp16 in the recipe, is whether the machine multiplies in bfloat16: decided when a run starts, and kept with it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Quantization(_Section):
    """How the base becomes 4 bits."""

    quant_type: str = "nf4"
    block_size: int = 64
    double_quant: bool = True
    compute_dtype: Literal["auto", *COMPUTE_DTYPES] = "auto"  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _is_a_spec(self) -> Self:
        QuantSpec(self.quant_type, self.block_size, self.double_quant)
        return self


class Lora(_Section):
    """The adapter's shape. target_modules: "all-linear", or layer names such as [q_proj, v_proj].

    target_parameters: PEFT's, for fused experts: [mlp.experts.gate_up_proj, mlp.experts.down_proj]; they take no dropout.
    """

    r: Annotated[int, Field(gt=0)] = 16
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    target_parameters: tuple[str, ...] = ()
    init: Literal["default"] = "default"


class Data(_Section):
    """eval: a file, or a share of the training rows, or null. max_length: null is 1024 tokens, or what the model can read."""

    train: str
    eval: str | Annotated[float, Field(ge=0, lt=1)] | None = 0.05
    format: str = "auto"
    template: str = "auto"
    max_length: Annotated[int, Field(ge=8)] | None = None
    packing: bool = False
    loss_on: Literal["assistant", "all"] = "assistant"

    @field_validator("eval")
    @classmethod
    def _nothing_is_none(cls, value: str | float | None) -> str | float | None:
        return value or None


def _a_size(value: str | int) -> str | int:
    parse_size(value)
    return value


Size = Annotated[str | int, AfterValidator(_a_size)]
"""256MiB, 12 GB, or a number of bytes."""


class Optimizer(_Section):
    """Of paged optimizers: how many bytes of states are in memory, and where the others go."""

    budget: Size = "256MiB"
    tier: Literal["auto", "ram", "disk"] = "auto"


class Activations(_Section):
    """Turns gradient checkpointing on; inputs of layers beyond the budget wait in a file in output_dir. On a CPU."""

    budget: Size = "256MiB"


class Recipe(_Section):
    """A whole run; `recipe_of` makes it. max_hours: when a process saves and stops, to go on another time. train: transformers' TrainingArguments by their own names, over DEFAULTS."""

    model: str
    method: Literal["qlora", "lora"] = "qlora"
    quantization: Quantization = Quantization()
    lora: Lora = Lora()
    data: Data
    train: dict[str, Any] = {}
    optimizer: Optimizer = Optimizer()
    activations: Activations | None = None
    max_hours: Annotated[float, Field(gt=0)] | None = None
    output_dir: str

    @field_validator("train")
    @classmethod
    def _known_arguments(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_arguments({**DEFAULTS, **value})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, complete, in the order of the file."""
        found: dict[str, Any] = self.model_dump(mode="json")
        without = {
            "quantization": self.method != "qlora",
            "optimizer": self.train["optim"] not in PAGED,
            "activations": self.activations is None,
            "max_hours": self.max_hours is None,
        }
        return {key: value for key, value in found.items() if not without.get(key)}

    def decided(self, max_length: int, bf16: bool) -> "Recipe":
        """The same run with the sequence length and, where the recipe names no precision, bfloat16 or not."""
        train = self.train if {"bf16", "fp16"} & self.train.keys() else {**self.train, "bf16": bf16}
        return self.model_copy(update={"data": self.data.model_copy(update={"max_length": max_length}), "train": train})


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values. Raises RecipeError: what came, what is allowed, the nearest word."""
    values = without_aliases(values)
    _refuse_without_effect(values)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(recipe_letter(error, Recipe)) from None
    except InputError as error:
        raise RecipeError(str(error)) from None


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe; under `train` every name of transformers' TrainingArguments with its type, over DEFAULTS."""
    schema = Recipe.model_json_schema()
    arguments = {name: _argument_schema(name) for name in argument_types() if name not in REFUSED}
    for argument in arguments.values():
        schema["$defs"] |= argument.pop("$defs", {})
    schema["properties"]["train"] = {"type": "object", "additionalProperties": False, "properties": arguments}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _argument_schema(name: str) -> dict[str, Any]:
    try:
        found = TypeAdapter(argument_types()[name]).json_schema()
    except PydanticUserError:
        found = {}
    return {**found, "default": DEFAULTS[name]} if name in DEFAULTS else found


def _refuse_without_effect(values: Mapping[str, Any]) -> None:
    chosen = (values.get("train") or {}).get("optim", DEFAULTS["optim"])
    if values.get("optimizer") is not None and chosen not in PAGED:
        raise RecipeError(
            f"optimizer: (budget, tier) has no effect with train.optim {chosen}, whose states are all in memory; leave the section out, or "
            f"choose {', '.join(PAGED)}"
        )
    if values.get("activations") is not None and (values.get("train") or {}).get("gradient_checkpointing_kwargs"):
        raise RecipeError(
            "activations: (budget) checkpoints layers in a way of its own; leave train.gradient_checkpointing_kwargs out"
        )
    if values.get("method") == "full":
        raise RecipeError(
            "method full comes with a later release; choose qlora (adapter on a 4-bit base) or lora (on a 16-bit base)"
        )
    if values.get("method") == "lora" and "quantization" in values:
        raise RecipeError(
            "quantization has no effect with method lora, which keeps the base as it is; leave it out or choose qlora"
        )
