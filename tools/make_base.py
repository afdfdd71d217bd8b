"""Makes the embedded base model: a tokenizer and a small Llama pretrained from scratch on tools/make_corpus.py.

    python tools/make_base.py --work /tmp/base                  # about 50 minutes on two shared cores
    python tools/make_base.py --work /tmp/base --steps 1400     # resumes; a smaller number ends sooner

The learning rate warms up, stays, and falls over the last 30 % of the steps, so a run that is stopped can be ended
early by resuming with fewer steps. The result goes to src/quatro/assets/base.
"""

import argparse
import time
from pathlib import Path

import torch
from pretrain.batches import Packer, batches
from pretrain.model import build, save
from pretrain.optimizer import Optimizer
from pretrain.tokenizer import load_or_train

ASSETS = Path(__file__).resolve().parents[1] / "src/quatro/assets/base"
ROWS, LENGTH = 16, 512
HELDOUT_SEED = 10**6


def loss_of(model: torch.nn.Module, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in float32, weighted.

    Shapes: tokens (rows, length) int64 · weights (rows, length) float32.
    """
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    chosen = weights[:, 1:]
    return (losses * chosen).sum() / chosen.sum()


class Run:
    """One pretraining: model in bfloat16, master weights in float32, a stream of packed rows, a checkpoint."""

    def __init__(self, work: Path, steps: int, compiled: bool) -> None:
        self.work, self.steps, self.step, self.seconds = work, steps, 0, 0.0
        self.tokenizer = load_or_train(work / "tokenizer")
        self.model = build(self.tokenizer)
        self.optimizer = Optimizer(self.model)
        self.loss = torch.compile(loss_of) if compiled else loss_of
        self.checkpoint = work / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.optimizer.load(state["optimizer"])

    def keep(self) -> None:
        """Writes the checkpoint; the old one stays until the new one is whole."""
        state = {"step": self.step, "seconds": self.seconds, "optimizer": self.optimizer.state()}
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def rate(self) -> float:
        """Share of the full learning rate: warm-up over 100 steps, flat, linear to zero over the last 30 %."""
        return min(1.0, (self.step + 1) / 100, (self.steps - self.step) / (0.3 * self.steps))

    def train(self) -> None:
        """Runs to the last step, showing loss, speed and time left."""
        packer = Packer(self.tokenizer, LENGTH)
        recent, began = 0.0, time.monotonic()
        for index, (tokens, weights) in enumerate(batches(packer, ROWS)):
            if index < self.step:
                continue
            if self.step >= self.steps:
                break
            loss = self.loss(self.model, tokens, weights)
            loss.backward()
            self.optimizer.step(self.rate())
            recent += loss.item()
            self.step += 1
            if self.step % 25 == 0:
                spent, began = time.monotonic() - began, time.monotonic()
                self.seconds += spent
                self._say(recent / 25, spent / 25)
                recent = 0.0
            if self.step % 250 == 0:
                self.keep()
        self.keep()

    def _say(self, loss: float, each: float) -> None:
        left = (self.steps - self.step) * each / 60
        speed = ROWS * LENGTH / each
        print(
            f"step {self.step}/{self.steps}  loss {loss:.3f}  {speed:,.0f} tokens/s  "
            f"{self.seconds / 60:.1f} min, {left:.1f} min left",
            flush=True,
        )

    def evaluate(self, count: int = 12) -> float:
        """Mean loss on rows of a seed that training never used."""
        stream = batches(Packer(self.tokenizer, LENGTH), ROWS, HELDOUT_SEED)
        with torch.no_grad():
            losses = [loss_of(self.model, *next(stream)).item() for _ in range(count)]
        return sum(losses) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a directory for the tokenizer and the checkpoint")
    parser.add_argument("--steps", type=int, default=1900, help=f"optimizer steps of {ROWS * LENGTH} tokens")
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--no-compile", action="store_true", help="for machines without a C++ compiler")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    run = Run(options.work, options.steps, not options.no_compile)
    run.train()
    print(f"held-out corpus loss {run.evaluate():.4f} after {run.step * ROWS * LENGTH:,} tokens, {run.seconds:.0f} s")
    save(run.model, run.tokenizer, options.out)


if __name__ == "__main__":
    main()
