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
    for update in updates:
        states = list(update.states)
        if bits == 8:
            states = [read_states(c, a, signed=not i) for i, (c, a) in enumerate(zip(states, update.absmax, strict=True))]
        moved = (_adamw if rule == "adamw" else _lion)(update.parameter, update.gradient, states, update.scalars)
        for i, (stored, state) in enumerate(zip(update.states, moved, strict=True)):
            if bits == 8:
                codes, absmax = write_states(state, signed=not i)
                stored.copy_(codes)
                update.absmax[i].copy_(absmax)
            else:
                stored.copy_(state)


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


def _adamw(p: Tensor, g: Tensor, states: list[Tensor], s: Scalars) -> list[Tensor]:
    m = states[0] + (g - states[0]) * (1 - s.beta1)
    v = states[1] * s.beta2 + g * g * (1 - s.beta2)
    root = v.double().sqrt().float()  # torch's float32 root is not always the nearest
    p.copy_(p * s.keep - m / (root * s.unbias + s.epsilon) * s.rate)
    return [m, v]


def _lion(p: Tensor, g: Tensor, states: list[Tensor], s: Scalars) -> list[Tensor]:
    m = states[0]
    mean = m * s.beta1 + g * (1 - s.beta1)
    p.copy_(p * s.keep - mean.sign() * s.rate)
    return [m * s.beta2 + g * (1 - s.beta2)]


def _per_state(absmax: Tensor, count: int) -> Tensor:
    return absmax.repeat_interleave(STATE_BLOCK)[:count]
