"""The programs under tools/ are imported as the modules they are; the assets are read from the source tree."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The directory of the embedded model and data set."""
    return ROOT / "src/quatro/assets"


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def train_rows(assets: Path) -> list[dict]:
    return _read(assets / "company/train.jsonl")


@pytest.fixture(scope="session")
def heldout_rows(assets: Path) -> list[dict]:
    return _read(assets / "company/heldout.jsonl")


@pytest.fixture(scope="session")
def corpus_text() -> str:
    """The first 5,000 rows of an early and of a late part of the pretraining text."""
    from itertools import islice

    from make_corpus import LATE_SEED, rows

    chosen = [row for seed in (100, LATE_SEED) for row in islice(rows(seed), 5000)]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in chosen)
