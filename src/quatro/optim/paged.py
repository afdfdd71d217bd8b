"""AdamW and Lion whose states have a budget: what does not fit lies in pages on a disk, or beside a GPU in main memory.

Sources: AdamW (arXiv 1711.05101), Lion (arXiv 2302.06675), 8-bit states (arXiv 2110.02861), paging (QLoRA, arXiv 2305.14314).
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from quatro.format.errors import InputError, did_you_mean
from quatro.format.sizes import parse_size
from quatro.kernels.dispatch import by_name, chosen_name
from quatro.kernels.updates import STATE_BLOCK, STATE_COUNT, Scalars, adamw_scalars, lion_scalars
from quatro.optim.layout import Layout, Part, Segment, laid_out
from quatro.optim.pool import Pool, Statistics
from quatro.optim.segments import States, View
from quatro.optim.states import STATES, check_state, of_parameter, parts_of
from quatro.optim.stores import FileStore, Frame, MemoryStore, Store, checked_directory

logger = logging.getLogger("quatro")

BUDGET, PAGE = "256MiB", "4MiB"
TIERS = ("auto", "ram", "disk")


class Paging(TypedDict, total=False):
    """What every paged optimizer can be told.

    state_bits: 32, or 8: blocks of 256 with dynamic maps. budget: bytes of states in memory, "256MiB". tier: "disk", on a GPU "ram" (pinned
    main memory), or "auto". directory: where the page file goes; it has no name there and is gone when the process is. page_size: of one
    page, "4MiB"; a budget holds at least two.
    """

    state_bits: int
    budget: str | int
    tier: str
    directory: str | Path | None
    page_size: str | int


class Paged(Optimizer):
    """What PagedAdamW and PagedLion share: states in pages, moved by one kernel, saved as plain tensors.

    Updates have the same bits for any budget. Statistics are in `statistics`.
    """

    rule: str

    def __init__(
        self,
        params: Iterable[Any],
        defaults: dict[str, Any],
        state_bits: int = 32,
        budget: str | int = BUDGET,
        tier: str = "auto",
        directory: str | Path | None = None,
        page_size: str | int = PAGE,
    ) -> None:
        if state_bits not in (8, 32):
            raise InputError(f"state_bits {state_bits!r} is not possible; choose 32 or 8")
        if tier not in TIERS:
            raise InputError(f"unknown tier {tier!r}; {did_you_mean(str(tier), TIERS)}")
        self.state_bits, self.tier, self.directory = state_bits, tier, directory
        self.budget, self.page_bytes = parse_size(budget), parse_size(page_size)
        self._pool: Pool | None = None
        self._laid_out: list[Tensor] = []
        self._segments: list[list[Segment]] = []
        self._views: dict[tuple[int, int], dict[int, States]] = {}
        self._steps: dict[Tensor, int] = {}
        self._forward = True
        super().__init__(params, defaults)

    def _scalars(self, group: dict[str, Any], step: int) -> Scalars:
        raise NotImplementedError

    @property
    def statistics(self) -> Statistics:
        """Of the states and their pages."""
        return self._ready().statistics

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Move every parameter that has a gradient. Raises MachineError when the page file fails."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pool, scalars = self._ready(), self._count_steps()
        moving = [[segment for segment in page if self._laid_out[segment.index].grad is not None] for page in self._segments]
        order = [page for page, segments in enumerate(moving) if segments]
        backend = by_name(chosen_name(self._laid_out[0].device.type))
        for page, frame in pool.walk(order if self._forward else order[::-1]):
            views = [View(self._laid_out[segment.index], segment) for segment in moving[page]]
            states = self._states(page, frame)
            updates = [view.update(states[view.segment.index], scalars[view.segment.index]) for view in views]
            backend.optimizer_step(updates, self.rule, self.state_bits)
            for view in views:
                view.put_back()
        self._forward = not self._forward  # so that the next step begins with pages that are still here
        return loss

    def state_dict(self) -> dict[str, Any]:
        """torch's form, of plain tensors: {"state": {i: {"step", "exp_avg", ...}}, "param_groups"}.

        Moments of paged states are mapped from the page file, so saving them takes no more memory than the budget; they change with the
        next step.
        """
        groups = super().state_dict()["param_groups"]
        if self._pool is None:
            return {"state": {}, "param_groups": groups}
        self._pool.flush()
        whole = {part.name: self._contiguous(part) for part in self._pool.layout.parts}
        layout = self._pool.layout
        state: dict[int, dict[str, Tensor]] = {}
        for index, (p, start, size) in enumerate(zip(self._laid_out, layout.starts, layout.sizes, strict=True)):
            if p in self._steps:
                own = {part.name: of_parameter(whole[part.name], part, start, size) for part in layout.parts}
                shaped = {name: x.view(p.shape) if x.numel() == size and "absmax" not in name else x for name, x in own.items()}
                state[index] = {"step": torch.tensor(float(self._steps[p])), **shaped}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over states, a page at a time, and keep this optimizer's own budget. torch's AdamW's may be taken over in 32 bits.

        Raises InputError for states of other shapes, of other parameters, or in other bits.
        """
        groups, saved = state_dict["param_groups"], state_dict["state"]
        self._check_groups(groups)
        own = [p for group in self.param_groups for p in group["params"]]
        order = [index for group in groups for index in group["params"]]
        states = {p: saved[index] for p, index in zip(own, order, strict=True) if index in saved}
        parts = parts_of(self.rule, self.state_bits)
        for position, (p, state) in enumerate(states.items()):
            check_state(position, p, state, parts)
        own_params = [group["params"] for group in self.param_groups]
        self.param_groups = [{**new, "params": params} for new, params in zip(groups, own_params, strict=True)]
        self._close()
        self._steps = {p: int(state["step"]) for p, state in states.items()}
        self._fill(self._ready(), states)

    def load(self, file: str | Path) -> None:
        """load_state_dict from a file that torch.save wrote, which is mapped and not read whole."""
        self.load_state_dict(torch.load(file, weights_only=True, mmap=True, map_location="cpu"))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's. Raises InputError for parameters that cannot be paged."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if not p.dtype.is_floating_point or p.dtype == torch.float64:
                raise InputError(f"a parameter of {p.dtype} has no paged states; they are float32, bfloat16 or float16")

    def _ready(self) -> Pool:
        """The pool, made at the first step, and again when a group was added."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        if self._pool is not None and len(parameters) == len(self._laid_out):
            return self._pool
        before = self.state_dict() if self._pool is not None else None
        old, self._pool = self._pool, None
        pool = self._pool = self._made(parameters)
        if before is not None and old is not None:
            self._fill(pool, {parameters[i]: state for i, state in before["state"].items()})
            old.close()
        return pool

    def check(self) -> None:
        """Raise InputError if the budget and the tier cannot hold the states; nothing is allocated."""
        self._layout([p for group in self.param_groups for p in group["params"]])

    def _made(self, parameters: list[Tensor]) -> Pool:
        layout, device = self._layout(parameters), parameters[0].device
        self._laid_out, self._segments, self._views = parameters, layout.segments(), {}
        if layout.pages == 1:
            return Pool(layout, 1, device, None)
        on_gpu = device.type == "cuda"
        store: Store = MemoryStore(layout, device) if on_gpu else FileStore(layout, checked_directory(self.directory))
        return Pool(layout, self.budget // layout.page_bytes, device, store)

    def _layout(self, parameters: list[Tensor]) -> Layout:
        if any(p.device != parameters[0].device for p in parameters):
            raise InputError("parameters of a paged optimizer must be on one device; make one optimizer for each")
        sizes = [p.numel() for p in parameters]
        layout = laid_out(parts_of(self.rule, self.state_bits), sizes, self.page_bytes, self.budget)
        if layout.pages > 1:
            self._check_pages(layout, on_gpu=parameters[0].device.type == "cuda")
        return layout

    def _check_pages(self, layout: Layout, on_gpu: bool) -> None:
        if self.budget < 2 * layout.page_bytes:
            raise InputError(
                f"a budget of {self.budget:,} bytes holds no two pages of {layout.page_bytes:,}; give at least {2 * layout.page_bytes:,}"
            )
        if self.tier == "disk" and on_gpu:
            raise InputError("states of parameters on a GPU are paged to main memory; choose tier ram or auto")
        if self.tier == "ram" and not on_gpu:
            raise InputError(
                f"these states take {layout.nbytes:,} bytes, more than the budget of {self.budget:,}, and tier ram keeps all of them in "
                "memory; choose tier disk, or raise the budget"
            )

    def _states(self, page: int, frame: Frame) -> dict[int, States]:
        """The states of each parameter in a page, as views of the frame; views are kept, because many small ones take longer than a step."""
        key = page, id(frame)
        if key not in self._views:
            self._views[key] = {segment.index: self._states_of(frame, segment) for segment in self._segments[page]}
        return self._views[key]

    def _states_of(self, frame: Frame, segment: Segment) -> States:
        """A segment's moments and, in 8 bits, their absmax."""
        begin, end = segment.offset, segment.offset + segment.count
        names = STATES[: STATE_COUNT[self.rule]]
        states = tuple(frame[name][begin:end] for name in names)
        if self.state_bits == 32:
            return states, ()
        blocks = slice(begin // STATE_BLOCK, -(-end // STATE_BLOCK))
        return states, tuple(frame[f"{name}_absmax"][blocks] for name in names)

    def _count_steps(self) -> dict[int, Scalars]:
        """One more step for every parameter with a gradient; the scalars of each by its index."""
        found: dict[int, Scalars] = {}
        index = 0
        for group in self.param_groups:
            made: dict[int, Scalars] = {}
            for p in group["params"]:
                if p.grad is not None:
                    _check_gradient(p)
                    step = self._steps[p] = self._steps.get(p, 0) + 1
                    if step not in made:
                        made[step] = self._scalars(group, step)
                    found[index] = made[step]
                index += 1
        return found

    def _fill(self, pool: Pool, states: dict[Tensor, dict[str, Tensor]]) -> None:
        """Write states into their pages."""
        for page, frame in pool.walk(range(pool.layout.pages)):
            for segment in self._segments[page]:
                state = states.get(self._laid_out[segment.index])
                if state is None:
                    continue
                for part in pool.layout.parts:
                    first, count = segment.offset // part.every, part.count(segment.count)
                    begin = segment.begin // part.every
                    frame[part.name][first : first + count].copy_(state[part.name].reshape(-1)[begin : begin + count])

    def _contiguous(self, part: Part) -> Tensor:
        pool = cast(Pool, self._pool)
        if pool.store is not None:
            return pool.store.contiguous(part.name)
        return next(frame for _, frame in pool.walk([0], changes=False))[part.name]

    def _check_groups(self, groups: list[dict[str, Any]]) -> None:
        own = [len(group["params"]) for group in self.param_groups]
        found = [len(group["params"]) for group in groups]
        if own != found:
            raise InputError(
                f"the saved optimizer has groups of {found} parameters, this one of {own}; they are of different models"
            )

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class PagedAdamW(Paged):
    """AdamW with moments of 32 or 8 bits within a budget.

    params, lr, betas, eps, weight_decay: torch.optim.AdamW's. paging: see Paging.
    Raises InputError's family, MachineError where pages cannot be written.
    """

    rule = "adamw"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **paging: Unpack[Paging],
    ) -> None:
        super().__init__(params, _checked(lr, betas, weight_decay, eps), **paging)

    def _scalars(self, group: dict[str, Any], step: int) -> Scalars:
        return adamw_scalars(float(group["lr"]), tuple(group["betas"]), group["eps"], group["weight_decay"], step)


class PagedLion(Paged):
    """Lion with a momentum of 32 or 8 bits within a budget; arguments as of PagedAdamW."""

    rule = "lion"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **paging: Unpack[Paging],
    ) -> None:
        super().__init__(params, _checked(lr, betas, weight_decay), **paging)

    def _scalars(self, group: dict[str, Any], step: int) -> Scalars:
        return lion_scalars(float(group["lr"]), tuple(group["betas"]), group["weight_decay"])


def _check_gradient(p: Tensor) -> None:
    gradient = cast(Tensor, p.grad)
    if gradient.is_sparse:
        raise InputError("sparse gradients have no paged optimizer; set sparse=False on the embedding")


def _checked(lr: float, betas: tuple[float, float], weight_decay: float, eps: float | None = None) -> dict[str, Any]:
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", 0.0 if eps is None else eps)):
        if not float(value) >= 0:
            raise InputError(f"{name} {value!r} is not possible; it is 0 or more")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"betas {betas!r} are not possible; give two from 0 to below 1")
    found = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
    return found if eps is None else {**found, "eps": eps}
