"""Contenders in processes of their own: each has its memory for itself, and one works while the others sleep.

A worker reads a request from its input, `{"task": name, ...arguments}` on one line, and answers with one line of JSON; a read from
a pipe takes no processor time, which `asleep` checks. A turn waits until other processes are quiet, and is repeated if they did
not stay so, while the run's patience lasts. Linux only: memory and processor time are read from /proc. Standard library only, so that a rival in another
interpreter can use it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

SILENT = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
IDLE_SECONDS, IDLE_SHARE = 0.05, 0.02
"""What sleeping workers may use while another works: threads of OpenMP spin for milliseconds after their last product."""
QUIET, GLANCE = 0.1, 0.3
"""A machine is quiet while other processes use less than this many processors; seconds of a look at it."""
PATIENCE, ATTEMPTS = 300.0, 3
"""Seconds that a run may spend on waiting for quiet and on repeating turns, and how often it tries a turn."""


class Worker:
    """A contender in a process of its own. Raises SystemExit where it fails."""

    def __init__(self, name: str, command: Iterable[str | Path], threads: int) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **SILENT, "OMP_NUM_THREADS": str(threads)},
        )

    def ask(self, task: str, **arguments: Any) -> Any:
        """Have the worker do a task; returns what it answers."""
        try:
            print(json.dumps({"task": task, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            line = ""
        else:
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()} when it was asked to {task}")
        return json.loads(line)

    def processor_seconds(self) -> float:
        """Processor time of all its threads so far, to 10 ms."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Turn:
    """A worker's answer, and how many processors other processes used meanwhile."""

    answer: Any
    others: float


class Race:
    """Contenders that take turns, on a machine that others may be using too.

    patience: seconds that may still be spent on waiting for quiet and on repeating disturbed turns; then turns are taken as they come.
    """

    def __init__(self, workers: dict[str, Worker], patience: float) -> None:
        self.workers, self.patience = workers, patience

    def round(self, ask: Callable[[Worker], Any]) -> dict[str, Turn]:
        """Every worker's turn. Repeat rounds, not workers: what slows the machine for a while then slows all of them alike."""
        return {name: self.turn(worker, ask) for name, worker in self.workers.items()}

    def turn(self, worker: Worker, ask: Callable[[Worker], Any]) -> Turn:
        """The first that nobody disturbed, or the least disturbed of a few; the other workers sleep."""
        turns = [self._attempt(worker, ask)]
        while len(turns) < ATTEMPTS and turns[-1].others >= QUIET and self.patience > 0:
            start = time.perf_counter()
            turns.append(self._attempt(worker, ask))
            self.patience -= time.perf_counter() - start
        return min(turns, key=lambda turn: turn.others)

    def _attempt(self, worker: Worker, ask: Callable[[Worker], Any]) -> Turn:
        self._wait_for_quiet()
        with asleep([other for other in self.workers.values() if other is not worker]):
            return self._observed(lambda: ask(worker))

    def _wait_for_quiet(self) -> None:
        while self.patience > 0 and self._observed(lambda: time.sleep(GLANCE)).others >= QUIET:
            self.patience -= GLANCE

    def _observed(self, do: Callable[[], Any]) -> Turn:
        """Do it, watching the processors."""
        before, start = self._used_by_others(), time.perf_counter()
        result = do()
        return Turn(result, (self._used_by_others() - before) / (time.perf_counter() - start))

    def _used_by_others(self) -> float:
        """Processor seconds of the machine so far, without this process and its workers."""
        user, nice, system, _, _, interrupt, soft, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
        ours = time.process_time() + sum(worker.processor_seconds() for worker in self.workers.values())
        return (user + nice + system + interrupt + soft + stolen) / os.sysconf("SC_CLK_TCK") - ours


@contextmanager
def asleep(workers: list[Worker]) -> Iterator[None]:
    """Raise SystemExit if these workers use the processor within the block: the timings of another would be wrong."""
    before, start = [worker.processor_seconds() for worker in workers], time.perf_counter()
    yield
    allowed = IDLE_SECONDS + IDLE_SHARE * (time.perf_counter() - start)
    for worker, seconds in zip(workers, before, strict=True):
        used = worker.processor_seconds() - seconds
        if used > allowed:
            raise SystemExit(f"{worker.name} used the processor for {used:.2f} s while another contender was timed")


def answer(tasks: dict[str, Callable[..., Any]]) -> None:
    """The worker's side: do what is asked until the input ends. What libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(tasks[request.pop("task")](**request)), file=answers, flush=True)


class ResidentMemory:
    """Megabytes resident above what was resident at birth, for a process to measure itself: make it after the imports."""

    def __init__(self) -> None:
        self.at_birth = _status("VmRSS")

    def now(self) -> float:
        return _status("VmRSS") - self.at_birth

    def peak(self) -> float:
        """The largest since `restart`."""
        return _status("VmHWM") - self.at_birth

    def restart(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3 * 1.024
