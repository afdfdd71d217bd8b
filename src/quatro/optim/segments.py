"""A run of a parameter and its gradient as the kernels take them: float32 and contiguous, on copies where they are not."""

from typing import cast

import torch
from torch import Tensor

from quatro.kernels.updates import Scalars, Update
from quatro.optim.layout import Segment

States = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Moments and, in 8 bits, their absmax."""


class View:
    """One segment. Its own numbers move; `put_back` brings them to the parameter where they are copies."""

    def __init__(self, parameter: Tensor, segment: Segment) -> None:
        self.segment, self._parameter = segment, parameter
        self._stored = _flat(parameter, segment)
        self._own = self._stored if _is_plain(self._stored) else self._stored.float().contiguous()
        gradient = _flat(cast(Tensor, parameter.grad), segment)
        self._gradient = gradient if _is_plain(gradient) else gradient.float().contiguous()

    def update(self, states: States, scalars: Scalars) -> Update:
        """With its states and scalars."""
        return Update(self._own, self._gradient, *states, scalars)

    def put_back(self) -> None:
        """Into the parameter, rounded to its dtype."""
        if not self._parameter.is_contiguous():
            whole = self._parameter.contiguous()
            _flat(whole, self.segment).copy_(self._own.view_as(_flat(whole, self.segment)))
            self._parameter.copy_(whole)
        elif self._own is not self._stored:
            self._stored.copy_(self._own)


def _flat(tensor: Tensor, segment: Segment) -> Tensor:
    """A segment's numbers; of a whole contiguous tensor itself, which needs no view."""
    if segment.count == tensor.numel() and tensor.is_contiguous():
        return tensor
    return tensor.reshape(-1)[segment.begin : segment.begin + segment.count]


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype is torch.float32 and tensor.is_contiguous()
