"""Plans of whatever a person can name, the hub's models included."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quatro.planner import asking
from quatro.planner.plan import Plan


def plan(model: str | Path | Mapping[str, Any], **settings: Any) -> Plan:
    """What training `model` takes, part by part: .total and .parts in bytes, .fits("12GiB"), .table().

    model: the values of a config.json; a path to one, or to a model's directory; a published name ("llama-7b", "gpt-j-6b"); or a hub
        id, of which only config.json is downloaded. settings: method ("full", "lora", "qlora"), r, targets, batch, length, accumulation, optim,
        checkpointing ("none", "products", "all"), dropout, dtype, compute, device ("gpu", "cpu"), budget, threads, spec.
    Raises InputError for what cannot be meant, CheckpointError for a configuration that cannot be read, MachineError for a hub out of
    reach. Needs no torch.
    """
    return asking.plan(model, fetch=fetch, **settings)


def fetch(repository: str) -> Mapping[str, Any]:
    """The values of a repository's config.json, from the hub or its cache."""
    from quatro.integrations.hub import config_of

    return config_of(repository)
