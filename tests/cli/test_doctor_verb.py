"""quatro doctor."""

import json

import pytest

from quatro.cli import doctor, machine
from quatro.cli.amounts import bytes_text, count_text, percent_text
from quatro.kernels.dispatch import BackendStatus, backends

WELL = machine.Machine("Linux", "CPU", 4, 4, 8 * 2**30, 6 * 2**30, None, 2**40, ("avx2",), 4)
NO_CUDA = machine.Cuda((), "this build of torch is without CUDA")
READY = [BackendStatus("native", "cpu", None), BackendStatus("reference", "cpu", None)]


def changed(**others):
    from dataclasses import replace

    return replace(WELL, **others)


@pytest.fixture(autouse=True)
def no_card(monkeypatch):
    monkeypatch.setattr(machine, "has_nvidia_card", lambda: False)
    monkeypatch.delenv("QUATRO_ISA", raising=False)


def test_json_is_all_that_stands_on_stdout_and_names_what_decides(run):
    found = run("doctor", "--json")
    assert found.exit_code == 0
    data = json.loads(found.stdout)
    import torch

    assert data["machine"]["torch_threads"] == torch.get_num_threads()
    assert data["machine"]["memory"] > 2**28
    assert data["versions"]["torch"] == torch.__version__
    assert [one["name"] for one in data["backends"]] == [status.name for status in backends()]


def test_the_table_names_every_backend_and_why_it_does_not_run(run):
    text = " ".join(run("doctor").stdout.split())
    for status in backends():
        assert f"{status.name} on {status.device}" in text
        if status.refusal:
            assert " ".join(status.refusal.split())[:40] in text


def test_a_machine_at_its_best_gets_no_advice():
    assert doctor.advise(WELL, NO_CUDA, READY) == []


def test_each_thing_that_is_slower_than_it_could_be_is_one_sentence():
    refused = [BackendStatus("native", "cpu", "is not built"), BackendStatus("reference", "cpu", None)]
    (backend,) = doctor.advise(WELL, NO_CUDA, refused)
    assert "native" in backend
    assert "is not built" in backend
    (threads,) = doctor.advise(changed(torch_threads=1), NO_CUDA, READY)
    assert "1 of 4 cores" in threads
    assert "OMP_NUM_THREADS" in threads
    (memory,) = doctor.advise(changed(memory_available=2**30), NO_CUDA, READY)
    assert "1.0 GiB" in memory


def test_a_cap_on_the_kernels_is_advice_and_shown(monkeypatch, run):
    monkeypatch.setenv("QUATRO_ISA", "scalar")
    assert any("QUATRO_ISA=scalar" in sentence for sentence in doctor.advise(WELL, NO_CUDA, READY))
    if backends()[0].refusal is None:
        assert "with its scalar kernels" in run("doctor").stdout


def test_a_card_that_torch_cannot_use_is_advice(monkeypatch):
    monkeypatch.setattr(machine, "has_nvidia_card", lambda: True)
    (card,) = doctor.advise(WELL, NO_CUDA, READY)
    assert "NVIDIA" in card


def test_a_backend_that_stands_behind_the_one_in_use_is_no_advice():
    status = [BackendStatus("native", "cpu", None), BackendStatus("reference", "cpu", "is broken")]
    assert doctor.advise(WELL, NO_CUDA, status) == []


def test_amounts_are_told_as_people_say_them():
    assert [bytes_text(count) for count in (0, 1023, 1536, 5 * 2**20, 3 * 2**30, 2**50)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "1024.0 TiB",
    ]
    assert [count_text(count) for count in (7, 950, 3_500_000, 1_100_000_000)] == ["7", "950", "3.5 M", "1.1 B"]
    assert [percent_text(share) for share in (None, 0.0, 0.834)] == ["–", "0 %", "83 %"]
