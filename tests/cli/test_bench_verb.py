"""quatro bench."""

import json

import pytest

from quatro.evaluate import speed
from quatro.format.errors import MachineError


def test_it_measures_every_number_of_rows_beside_its_rivals(run, monkeypatch):
    monkeypatch.setattr(speed, "CACHE", 1)
    found = run("bench", "--size", "128", "--rounds", "1", "--json")
    assert found.exit_code == 0, found.stderr
    data = json.loads(found.stdout)
    assert [one["rows"] for one in data["products"]] == [1, 8, 64, 256]
    for one in data["products"]:
        assert set(one["seconds"]) >= {"quatro", "dense float32"}
        assert one["gflops"] == pytest.approx(2 * one["rows"] * 128 * 128 / one["seconds"]["quatro"] / 1e9)


def test_the_table_shows_times_and_ratios(run, monkeypatch):
    monkeypatch.setattr(speed, "CACHE", 1)
    found = run("bench", "--size", "64", "--rounds", "1")
    assert found.exit_code == 0
    assert "dense float32" in found.stdout
    assert "nf4 with double quantization" in found.stdout


def test_a_size_that_blocks_do_not_divide_is_refused(run):
    found = run("bench", "--size", "100")
    assert found.exit_code == 2
    assert "--size is 100; blocks of 64 need a multiple of 64, such as 64" in found.stderr


def test_a_wrong_product_is_not_timed(monkeypatch):
    monkeypatch.setattr(speed, "CACHE", 1)
    monkeypatch.setitem(speed.MOST, "quatro", 1e-9)
    with pytest.raises(MachineError, match="the product of quatro errs by .*: nothing was measured"):
        speed.measure_products(64, (1,), 1)
