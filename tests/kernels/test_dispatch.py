import logging
import threading

import pytest
import torch

from quatro.format.errors import BackendError
from quatro.kernels import dispatch, native
from quatro.tensor.quantized import quantize


def test_the_first_backend_that_does_not_refuse_is_chosen():
    assert dispatch.chosen_name("cpu") == next(s.name for s in dispatch.backends() if s.device == "cpu" and s.refusal is None)


def test_a_choice_holds_inside_its_block_only():
    before = dispatch.chosen_name("cpu")
    with dispatch.use_backend("reference"):
        assert dispatch.chosen_name("cpu") == "reference"
    assert dispatch.chosen_name("cpu") == before


def test_a_choice_does_not_reach_other_threads():
    seen = []
    before = dispatch.chosen_name("cpu")
    with dispatch.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(dispatch.chosen_name("cpu")))
        thread.start()
        thread.join()
    assert seen == [before]


def test_an_unknown_backend_is_answered_with_the_known_ones():
    with pytest.raises(BackendError, match="unknown backend 'cuda'; .*native, reference"), dispatch.use_backend("cuda"):
        pass


def test_when_none_can_run_every_reason_is_listed(monkeypatch):
    for backend in dispatch.ORDER:
        monkeypatch.setattr(backend, "refusal", lambda device, name=backend.NAME: f"is away ({name})")
    with pytest.raises(BackendError, match=r"native is away \(native\); reference is away \(reference\)"):
        dispatch.chosen_name("cpu")


def test_a_backend_that_was_asked_for_is_never_replaced(monkeypatch):
    monkeypatch.setattr(native, "refusal", lambda device: "is not built")
    with pytest.raises(BackendError, match="native is not built"), dispatch.use_backend("native"):
        quantize(torch.randn(64))


def test_a_slower_backend_speaks_once(monkeypatch, caplog):
    monkeypatch.setattr(native, "refusal", lambda device: "is not built (spoken once)")
    with caplog.at_level(logging.WARNING, logger="quatro"):
        for _ in range(3):
            quantize(torch.randn(64))
    assert [record.message for record in caplog.records if "spoken once" in record.message] == [
        "quatro runs on the reference backend for cpu, slower than it could: native is not built (spoken once)"
    ]


def test_every_backend_has_the_references_functions_with_the_same_parameters():
    import inspect

    from quatro.kernels import reference

    for name in ("quantize", "dequantize", "quantize_scales", "dequantize_scales", "refusal"):
        expected = inspect.signature(getattr(reference, name))
        for backend in dispatch.ORDER:
            assert inspect.signature(getattr(backend, name)) == expected, f"{backend.NAME}.{name}"
