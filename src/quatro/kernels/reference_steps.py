"""Steps of AdamW (arXiv 1711.05101) and Lion (arXiv 2302.06675) in plain torch: the bits that every backend's step has.

Each operation below is one of float32, rounded once.
"""

import torch
from torch import Tensor

from quatro.format.dynamic_map import dynamic_bins, signed_dynamic_map, unsigned_dynamic_map
from quatro.kernels.updates import STATE_BLOCK, Scalars, Update

LEAST_ABSMAX = 1e-38
ZERO, ONE = {True: 127, False: 0}, 255
"""The codes of 0, by whether the map is signed, and of 1."""


@torch.no_grad()
def optimizer_step(updates: list[Update], rule: str, bits: int) -> None:
    """Move parameters and states in place. rule: "adamw" or "lion". bits: 32 or 8, of the states."""
    together: dict[Scalars, list[Update]] = {}
    for update in updates:
        together.setdefault(update.scalars, []).append(update)
    for scalars, group in together.items():
        states = [_read(update, bits) for update in group]
        parameters, gradients = [update.parameter for update in group], [update.gradient for update in group]
        moments = [list(moment) for moment in zip(*states, strict=True)]
        (_adamw if rule == "adamw" else _lion)(parameters, gradients, moments, scalars)
        if bits == 8:
            for update, moved in zip(group, zip(*moments, strict=True), strict=True):
                _write(update, moved)


def _read(update: Update, bits: int) -> list[Tensor]:
    if bits == 32:
        return list(update.states)
    return [read_states(c, a, signed=not i) for i, (c, a) in enumerate(zip(update.states, update.absmax, strict=True))]


def _write(update: Update, moved: tuple[Tensor, ...]) -> None:
    for i, state in enumerate(moved):
        codes, absmax = write_states(state, signed=not i)
        update.states[i].copy_(codes)
        update.absmax[i].copy_(absmax)


def read_states(codes: Tensor, absmax: Tensor, signed: bool) -> Tensor:
    """codes uint8 (n,), absmax float32 (n / 256,) -> states float32 (n,)."""
    values = torch.tensor(signed_dynamic_map() if signed else unsigned_dynamic_map(), device=codes.device)
    return values[codes.long()] * _per_state(absmax, codes.numel())


def write_states(states: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """states float32 (n,) -> codes uint8 (n,), absmax float32 (n / 256,). Only an exact 0 takes the code of 0."""
    count = states.numel()
    padded = torch.nn.functional.pad(states, (0, -count % STATE_BLOCK)).view(-1, STATE_BLOCK)
    absmax = padded.abs().nan_to_num(nan=0.0, posinf=torch.inf).amax(1)
    x = states.abs() * _per_state(1.0 / absmax.clamp(min=LEAST_ABSMAX), count)
    return _codes(states, torch.where(x < 1, x, 1.0), signed).to(torch.uint8), absmax


def _codes(states: Tensor, x: Tensor, signed: bool) -> Tensor:
    bins = dynamic_bins(signed)
    edges, steps, starts = (torch.tensor(part, device=x.device) for part in (bins.edges, bins.steps, bins.starts))
    decade = torch.searchsorted(edges, x, right=True)
    count = 2 ** (decade + (not signed))
    position = (x * steps[decade] + starts[decade]).clamp(min=0).long().minimum(count - 1)
    if signed:
        magnitude = count + position
        found = torch.where(states < 0, -magnitude, torch.where(x >= bins.top, ONE - ZERO[True], magnitude)) + ZERO[True]
    else:
        found = torch.where(x >= bins.top, ONE, count - 1 + position)
    return torch.where(states == 0, ZERO[signed], found)


def _adamw(p: list[Tensor], g: list[Tensor], moments: list[list[Tensor]], s: Scalars) -> None:
    """In place, an operation at a time over all tensors, which on a GPU is one kernel for many of them."""
    m, v = moments
    change = torch._foreach_mul(torch._foreach_sub(g, m), 1 - s.beta1)
    torch._foreach_add_(m, change)
    torch._foreach_mul_(v, s.beta2)
    torch._foreach_add_(v, torch._foreach_mul(torch._foreach_mul(g, g), 1 - s.beta2))
    spread = torch._foreach_add(torch._foreach_mul(_roots(v), s.unbias), s.epsilon)
    torch._foreach_mul_(p, s.keep)
    torch._foreach_sub_(p, torch._foreach_mul(torch._foreach_div(m, spread), s.rate))


def _roots(v: list[Tensor]) -> list[Tensor]:
    """Rounded to the nearest; torch's float32 root on a CPU is not always."""
    return list(torch._foreach_sqrt(v)) if v[0].is_cuda else [x.double().sqrt().float() for x in v]


def _lion(p: list[Tensor], g: list[Tensor], moments: list[list[Tensor]], s: Scalars) -> None:
    m = moments[0]
    mean = torch._foreach_add(torch._foreach_mul(m, s.beta1), torch._foreach_mul(g, 1 - s.beta1))
    torch._foreach_mul_(p, s.keep)
    torch._foreach_sub_(p, torch._foreach_mul(torch._foreach_sign(mean), s.rate))
    torch._foreach_mul_(m, s.beta2)
    torch._foreach_add_(m, torch._foreach_mul(g, 1 - s.beta2))


def _per_state(absmax: Tensor, count: int) -> Tensor:
    return absmax.repeat_interleave(STATE_BLOCK)[:count]
