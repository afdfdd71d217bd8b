"""Pages in frames: which are here, which go, and that what comes back is what went."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quatro.optim.layout import Part, bytes_of, laid_out
from quatro.optim.pool import Pool
from quatro.optim.stores import FileStore, MemoryStore

CPU = torch.device("cpu")
PARTS = (Part("a", torch.float32), Part("b", torch.uint8, fresh=127), Part("c", torch.float32, every=256))
PAGE = bytes_of(PARTS, 4096)


def a_pool(frames: int, pages: int, kind: str, directory: Path) -> Pool:
    layout = laid_out(PARTS, [4096 * pages], PAGE, 0)
    assert layout.pages == pages
    store = FileStore(layout, directory) if kind == "file" else MemoryStore(layout, CPU)
    return Pool(layout, frames, CPU, store)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 6), unique=True, max_size=7), max_size=5),
    st.integers(2, 7),
    st.sampled_from(["file", "memory"]),
)
def test_what_comes_back_is_what_went_in_any_order(tmp_path_factory, orders, frames, kind):
    pool, expected = a_pool(frames, 7, kind, tmp_path_factory.mktemp("pages")), dict.fromkeys(range(7), 0)
    for turn, order in enumerate(orders, 1):
        for page, frame in pool.walk(order):
            assert frame["a"].unique().tolist() == [expected[page]]
            assert frame["b"].unique().tolist() == [(127 + expected[page]) % 256]
            expected[page] = 10 * turn + page
            frame["a"].fill_(expected[page])
            frame["b"].fill_((127 + expected[page]) % 256)
    pool.flush()
    whole = pool.store.contiguous("a").view(7, -1)
    for page in pool.store.kept:
        assert whole[page].unique().tolist() == [expected[page]]
    assert pool.statistics.resident == min(frames, 7) * PAGE
    pool.close()


def test_a_page_that_is_still_on_its_way_out_is_not_read_before_it_is_there(tmp_path, monkeypatch):
    pool, write = a_pool(3, 6, "file", tmp_path), os.pwritev

    def slow(descriptor: int, buffers: Any, begin: int) -> int:
        time.sleep(0.1 * (begin == 2 * 4096 * 4))  # the first part of page 2
        return write(descriptor, buffers, begin)

    monkeypatch.setattr(os, "pwritev", slow)
    for page, frame in pool.walk([0, 1, 2]):
        frame["a"].fill_(page + 1)
    found = {page: float(frame["a"][0]) for page, frame in pool.walk([5, 4, 3, 2], changes=False)}
    assert found[2] == 3
    pool.close()


def test_the_next_pages_are_on_their_way_while_one_is_worked_on(tmp_path):
    pool = a_pool(4, 6, "file", tmp_path)
    walk = pool.walk(range(6))
    next(walk)
    assert set(pool._held) == {0, 1, 2, 3}
    pool.close()


def test_going_back_and_forth_finds_the_last_pages_still_here(tmp_path):
    pool = a_pool(3, 6, "file", tmp_path)
    for _ in pool.walk(range(6)):
        pass
    read = pool.store.bytes_read
    for page, _ in pool.walk([5, 4, 3], changes=False):
        assert page in pool._held
    assert pool.store.bytes_read == read
    pool.close()


@pytest.mark.parametrize("page", [4096, 5000, 1 << 20])
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6))
def test_every_element_has_one_place_and_parameters_begin_at_blocks(sizes, page):
    layout = laid_out(PARTS, sizes, page, 0)
    seen = dict.fromkeys(range(len(sizes)), 0)
    for segments in layout.segments():
        end = 0
        for segment in segments:
            assert segment.begin == seen[segment.index]
            assert segment.offset % 256 == 0 <= segment.offset - end
            end = segment.offset + segment.count
            seen[segment.index] += segment.count
        assert end <= layout.elements
    assert list(seen.values()) == sizes
