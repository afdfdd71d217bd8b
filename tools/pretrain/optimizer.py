"""Muon for the matrices of the blocks, AdamW for the rest; float32 master weights of a bfloat16 model."""

import torch
from torch import nn

MATRIX_RATE, OTHER_RATE, DECAY = 6e-3, 3e-3, 0.02


class Optimizer:
    """Keeps a float32 copy of every weight, steps it with the gradients, and writes it back rounded."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = dict(model.named_parameters())
        self.masters = {name: weight.detach().float().clone().requires_grad_() for name, weight in self.weights.items()}
        matrices = [master for name, master in self.masters.items() if master.ndim == 2 and "layers" in name]
        chosen = {id(matrix) for matrix in matrices}
        others = [master for master in self.masters.values() if id(master) not in chosen]
        self.parts = (
            torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        )

    def step(self, rate: float) -> None:
        """One update at a share of the full learning rates; gradients are taken from the model and cleared."""
        for name, master in self.masters.items():
            gradient = self.weights[name].grad
            assert gradient is not None
            master.grad = gradient.float()
            self.weights[name].grad = None
        nn.utils.clip_grad_norm_(self.masters.values(), 1.0)
        for part, full in zip(self.parts, (MATRIX_RATE, OTHER_RATE), strict=True):
            part.param_groups[0]["lr"] = full * rate
            part.step()
        self._write_back()

    def _write_back(self) -> None:
        with torch.no_grad():
            for name, master in self.masters.items():
                self.weights[name].copy_(master)

    def state(self) -> dict:
        masters = {name: master.detach() for name, master in self.masters.items()}
        return {"masters": masters, "parts": [part.state_dict() for part in self.parts]}

    def load(self, state: dict) -> None:
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state["masters"][name])
        for part, kept in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(kept)
        self._write_back()
