"""A plan is the sum of its parts, grows with what is asked, and is refused where nothing can be meant."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quatro
from quatro.format.errors import CheckpointError, InputError
from quatro.planner.asking import plan
from quatro.planner.largest import largest
from quatro.planner.models import skeleton_of
from quatro.planner.names import KNOWN
from quatro.planner.plan import PARTS, plan_skeleton, side_by_side
from quatro.planner.settings import CHECKPOINTING, METHODS, Settings

LLAMA = skeleton_of(KNOWN["tinyllama-1.1b"])
ASKED = st.builds(
    Settings,
    method=st.sampled_from(METHODS),
    r=st.integers(1, 128),
    batch=st.integers(1, 64),
    length=st.integers(1, 8192),
    optim=st.sampled_from(["adamw_torch", "paged_adamw_8bit", "lion_32bit"]),
    checkpointing=st.sampled_from(CHECKPOINTING),
    dropout=st.sampled_from([0.0, 0.1]),
    compute=st.sampled_from(["bfloat16", "float32"]),
    device=st.sampled_from(["gpu", "cpu"]),
)


@given(ASKED)
def test_the_total_is_the_sum_of_parts_that_are_all_there_and_explained(asked: Settings) -> None:
    found = plan_skeleton(LLAMA, asked)
    assert found.total == sum(part.bytes for part in found.parts.values())
    assert all(part.bytes > 0 and part.why for part in found.parts.values())
    assert set(found.parts) <= set(PARTS)
    assert found.fits(found.total)
    assert not found.fits(found.total - 1)


@given(ASKED, st.sampled_from(["r", "batch", "length"]))
def test_more_of_anything_never_takes_less(asked: Settings, name: str) -> None:
    more = replace(asked, **{name: 2 * getattr(asked, name)})
    assert plan_skeleton(LLAMA, more).total >= plan_skeleton(LLAMA, asked).total


@given(ASKED)
def test_checkpointing_keeps_fewer_activations(asked: Settings) -> None:
    kept = [plan_skeleton(LLAMA, replace(asked, checkpointing=how)).parts["activations"].bytes for how in CHECKPOINTING]
    assert kept == sorted(kept, reverse=True)


@given(ASKED)
def test_gradients_stand_only_where_batches_are_accumulated(asked: Settings) -> None:
    once, often = (plan_skeleton(LLAMA, replace(asked, accumulation=number)) for number in (1, 2))
    size = often.parts["gradients"].bytes
    step = sum(often.parts[name].bytes for name in ("activations", "in passing"))
    assert often.total - once.total == min(size, step)


def test_qlora_takes_less_than_lora_and_lora_less_than_full() -> None:
    found = side_by_side(skeleton_of(KNOWN["llama-7b"]), Settings(optim="adamw_torch", checkpointing="all"))
    assert found["qlora"].total < found["lora"].total < found["full"].total
    assert list(found) == list(METHODS)


@settings(max_examples=25)
@given(ASKED, st.integers(2 << 30, 64 << 30))
def test_the_largest_that_fits_fits_and_one_more_does_not(asked: Settings, budget: int) -> None:
    for way in largest(LLAMA, asked, budget):
        assert way.fits == (plan_skeleton(LLAMA, way.settings).total <= budget)
        for name, most in (("length", LLAMA.longest), ("batch", 1 << 14)):
            value = getattr(way, name)
            if value:
                assert plan_skeleton(LLAMA, replace(way.settings, **{name: value})).total <= budget
            if value < most:
                assert plan_skeleton(LLAMA, replace(way.settings, **{name: value + 1})).total > budget


def test_what_does_not_fit_is_told_what_would() -> None:
    ways = largest(skeleton_of(KNOWN["llama-7b"]), Settings(optim="adamw_torch", length=2048), 12 << 30)
    assert [way.fits for way in ways] == [False, False, True, True]
    assert ways[2].changes == ("page the optimizer's states (paged_adamw_32bit)", "checkpoint, keeping products")


def test_a_model_is_named_in_any_of_four_ways(tmp_path: Path) -> None:
    config = dict(KNOWN["llama-7b"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = plan("llama-7b").total
    found = [quatro.plan(config), quatro.plan(tmp_path), quatro.plan(str(tmp_path / "config.json"))]
    found.append(plan("owner/llama", fetch=lambda name: config if name == "owner/llama" else {}))
    assert [one.total for one in found] == [expected] * 4


def test_the_checkpoints_own_dtype_is_taken_where_none_is_asked_for() -> None:
    wide = {**KNOWN["llama-7b"], "dtype": "float32"}
    dense = [one.parts["dense weights"].bytes for one in (plan(wide), plan("llama-7b"), plan(wide, dtype="bfloat16"))]
    assert dense[0] > dense[1] == dense[2]


def test_what_cannot_be_meant_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1, 2")
    for model, error, says in (
        ("llama-7c", InputError, "did you mean 'llama-7b'"),
        (tmp_path, CheckpointError, "not a readable config.json"),
        (tmp_path / "nothing", InputError, "neither a file"),
    ):
        with pytest.raises(error, match=says):
            plan(model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="has no config.json"):
        plan(tmp_path / "empty")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"method": "qlra"}, "did you mean 'qlora'"),
        ({"batch": 0}, "batch must be a whole number of 1 or more, got 0"),
        ({"length": 12.5}, "length"),
        ({"r": -1}, "r must be"),
        ({"dropout": 1}, "dropout"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
        ({"optim": "adam"}, "unknown optim 'adam'"),
        ({"lenght": 512}, "did you mean 'length'"),
        ({"targets": ["atention"]}, "no linear layer 'atention'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan("llama-7b", **setting)


def test_a_table_names_every_part_and_the_total() -> None:
    found = plan("llama-7b")
    text = found.table()
    assert all(name in text for name in (*found.parts, "total", "paged out"))
    assert json.loads(json.dumps(found.as_dict()))["total_bytes"] == found.total
