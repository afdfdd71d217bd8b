"""A plan: the parts of a training run's memory, each with its formula in words, and their sum."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quatro.format.sizes import parse_size
from quatro.planner.activations import in_passing, kept_by_layer, layer_input, products
from quatro.planner.adapters import Factors, adapters
from quatro.planner.settings import DTYPES, METHODS, Settings
from quatro.planner.skeleton import Skeleton
from quatro.planner.tensors import Role
from quatro.planner.weights import FLOAT32, bytes_dense, bytes_in_4_bits
from quatro.planner.working import loss_bytes, scratch_bytes

CONTEXT_GPU = 450 << 20
"""Assumed: a CUDA context with torch's kernels loaded and its libraries' workspaces; measured ones are 300 to 600 MiB."""
PROCESS_CPU = {2: 40 << 20, 4: 27 << 20}
"""Measured, by the bytes of a product's number: what a process holds beyond its imports when it has trained a model of no size (its
row in docs/planning.md): code that is mapped when first used, threads, Python's objects."""
SIXTEEN_BITS = 2
PARTS = (
    "weights",
    "4-bit weights",
    "dense weights",
    "cast weights",
    "buffers",
    "adapters",
    "gradients",
    "optimizer states",
    "activations",
    "in passing",
    "scratch",
    "process",
    "CUDA context",
)
"""Every name that a part can have, in the order of tables and bars."""


@dataclass(frozen=True)
class Part:
    """bytes, and in words how they were found."""

    bytes: int
    why: str


@dataclass(frozen=True)
class Plan:
    """What one run takes at its peak. parts: by name, in the order of the table. paged: bytes of optimizer states beyond the budget,
    which lie in host memory or on disk and are not in the total."""

    settings: Settings
    parameters: int
    packed_parameters: int
    trainable: int
    parts: Mapping[str, Part]
    paged: int = 0

    @property
    def total(self) -> int:
        """Bytes at the peak, resident on the device."""
        return sum(part.bytes for part in self.parts.values())

    @property
    def adapter_file(self) -> int:
        """Bytes of the adapter's numbers on disk, float32."""
        return 0 if self.settings.method == "full" else FLOAT32 * self.trainable

    @property
    def trainable_percent(self) -> float:
        """Of all weights as they are stored: PEFT's number."""
        if self.settings.method == "full":
            return 100.0
        stored = self.packed_parameters if self.settings.method == "qlora" else self.parameters
        return 100 * self.trainable / (stored + self.trainable)

    def fits(self, budget: str | int | float) -> bool:
        """Whether it stays within a size such as "12GiB". Raises InputError for one that cannot be read."""
        return self.total <= parse_size(budget)

    def table(self) -> str:
        """The parts, their bytes in MiB and their formulas, as lines of text."""
        wide = max(len(name) for name in self.parts)
        rows = [(name, part.bytes, part.why) for name, part in self.parts.items()]
        rows.append(("total", self.total, ""))
        if self.paged:
            rows.append(("paged out", self.paged, "not in the total"))
        return "\n".join(f"{name:<{wide}}  {size / 2**20:>12,.1f} MiB  {why}".rstrip() for name, size, why in rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "method": self.settings.method,
            "parameters": self.parameters,
            "packed_parameters": self.packed_parameters,
            "trainable": self.trainable,
            "trainable_percent": self.trainable_percent,
            "adapter_file_bytes": self.adapter_file,
            "parts": {name: {"bytes": part.bytes, "why": part.why} for name, part in self.parts.items()},
            "total_bytes": self.total,
            "paged_bytes": self.paged,
        }


def plan_skeleton(skeleton: Skeleton, settings: Settings) -> Plan:
    """The plan of one run. Raises InputError for targets that the model does not have."""
    factors = () if settings.method == "full" else adapters(skeleton, settings.r, settings.targets)
    trainable = skeleton.parameters if settings.method == "full" else sum(one.parameters for one in factors)
    states = settings.optimizer.state_bytes(_trained_tensors(skeleton, factors))
    paged = max(0, states - settings.resident_budget) if settings.optimizer.paged else 0
    step = dict(_activations(skeleton, settings, factors))
    parts = {
        name: part
        for name, part in (
            *_weights(skeleton, settings),
            *_trained(settings, trainable, states, paged),
            ("gradients", _gradients(settings, trainable, sum(part.bytes for part in step.values()))),
            *step.items(),
            *_working(skeleton, settings),
        )
        if part.bytes
    }
    packed = skeleton.packed_parameters if settings.method == "qlora" else skeleton.parameters
    return Plan(settings, skeleton.parameters, packed, trainable, parts, paged)


def side_by_side(skeleton: Skeleton, settings: Settings) -> dict[str, Plan]:
    """The same run as full fine-tuning in 16 bits, as LoRA on a 16-bit base, and as QLoRA."""
    return {method: plan_skeleton(skeleton, replace(settings, method=method)) for method in METHODS}


def _trained_tensors(skeleton: Skeleton, factors: tuple[Factors, ...]) -> list[tuple[int, int]]:
    if factors:
        return [(size, one.count) for one in factors for size in one.sizes]
    return [(tensor.size, tensor.count) for tensor in skeleton.tensors if tensor.role is not Role.BUFFER]


def _weights(skeleton: Skeleton, settings: Settings) -> Iterator[tuple[str, Part]]:
    if settings.method == "qlora":
        spec, found = settings.spec, bytes_in_4_bits(skeleton, settings.spec, DTYPES[settings.dtype])
        nested = ", double quantization" if spec.double_quant else ""
        yield "4-bit weights", Part(found["codes and scales"], f"{spec.quant_type} in blocks of {spec.block_size}{nested}")
        yield (
            "dense weights",
            Part(found["dense rest"], f"embeddings, heads and biases in {settings.dtype}, norms and routers in float32"),
        )
        yield "buffers", Part(found["buffers"], "rotary frequencies, positions, masks")
        return
    size, why = _dense_dtype(settings)
    found = bytes_dense(skeleton, size)
    yield "weights", Part(found["weights"], f"{size} bytes a parameter: {why}")
    yield "buffers", Part(found["buffers"], "rotary frequencies, positions, masks")
    if settings.device == "cpu" and settings.compute_bytes == SIXTEEN_BITS:
        matrices = sum(tensor.parameters for tensor in skeleton.linears)
        yield "cast weights", Part(SIXTEEN_BITS * matrices, "autocast's 16-bit copies of float32 matrices, kept for backward")


def _dense_dtype(settings: Settings) -> tuple[int, str]:
    """(bytes, why): on a CPU `quatro train` widens a dense base, whose 16-bit products would be slow."""
    if settings.device == "cpu":
        return FLOAT32, "a CPU's dense base is float32"
    return SIXTEEN_BITS, "16 bits"


def _trained(settings: Settings, trainable: int, states: int, paged: int) -> Iterator[tuple[str, Part]]:
    if settings.method != "full":
        yield "adapters", Part(FLOAT32 * trainable, f"{trainable:,} trained numbers in float32")
    kept = f"; {settings.resident_budget / 2**20:,.0f} MiB of it resident" if paged else ""
    yield "optimizer states", Part(states - paged, f"{settings.optim}: {settings.optimizer.words}{kept}")


def _gradients(settings: Settings, trainable: int, step: int) -> Part:
    """They stand through a step if batches are accumulated; else they come while activations go, and count where they are more."""
    size, what = (_dense_dtype(settings)[0], "") if settings.method == "full" else (FLOAT32, ", of the adapters only")
    if settings.accumulation > 1:
        return Part(size * trainable, f"{size} bytes a trained parameter{what}")
    return Part(
        max(0, size * trainable - step), f"{size} bytes a trained parameter{what}, beyond the activations whose place they take"
    )


def _activations(skeleton: Skeleton, settings: Settings, factors: tuple[Factors, ...]) -> Iterator[tuple[str, Part]]:
    """Kept through the whole forward pass; and the most that comes on top: the loss, or one layer's backward."""
    whole_model = settings.checkpointing == "none"  # then the first norm keeps nothing and the last one something
    kept, again = 0 if whole_model else FLOAT32 * settings.tokens * skeleton.hidden, 0
    for stack in skeleton.stacks:
        whole = sum(one.bytes for one in kept_by_layer(stack, settings, factors))
        held = _held(whole, layer_input(stack, settings), products(stack, settings), settings)
        kept += stack.layers * held
        once = max(0, whole - held) if settings.checkpointing != "none" else 0
        again = max(again, once + in_passing(stack, settings))
    words = {
        "none": "what autograd saves of every layer",
        "products": "of every layer its input and its products; the rest is computed again",
        "all": "of every layer its input; all else is computed again",
    }
    yield "activations", Part(kept, f"{words[settings.checkpointing]}, {settings.tokens:,} tokens")
    loss = loss_bytes(skeleton, settings)
    chunks = "a chunk of" if skeleton.in_chunks else "whole"
    passing = "one layer computed again and going backward" if settings.checkpointing != "none" else "one layer going backward"
    larger = f"{chunks} logits, larger than {passing}" if loss >= again else f"{passing}, larger than {chunks} logits"
    yield "in passing", Part(max(loss, again), larger)


def _held(whole: int, input_bytes: int, product_bytes: int, settings: Settings) -> int:
    if settings.checkpointing == "none":
        return whole
    if settings.checkpointing == "products" and settings.method == "qlora":
        return min(whole, input_bytes + product_bytes)
    return min(whole, input_bytes)


def _working(skeleton: Skeleton, settings: Settings) -> Iterator[tuple[str, Part]]:
    yield "scratch", Part(scratch_bytes(skeleton, settings), "one buffer for products with 4-bit weights, sized to the largest")
    if settings.device == "cpu":
        yield (
            "process",
            Part(PROCESS_CPU[settings.compute_bytes], "measured on a model of no size: code, threads, Python's objects"),
        )
    else:
        yield "CUDA context", Part(CONTEXT_GPU, "assumed: context, kernels and library workspaces")
