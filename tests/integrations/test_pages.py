import mmap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quatro.integrations import pages
from quatro.integrations.pages import LentPages, own_pages

SIZE = 4 << 20


def test_pages_are_lent_again_once_nothing_stands_on_them() -> None:
    lend = LentPages(2 * SIZE)
    first = lend(SIZE)
    place = first.data_ptr()
    del first
    assert lend(SIZE).data_ptr() == place


def test_pages_stay_lent_while_a_view_of_a_tensor_lives() -> None:
    """A parameter made of a view must never see another tensor's numbers."""
    lend = LentPages(4 * SIZE)
    kept = torch.nn.Parameter(lend(SIZE).view(torch.float32)[5:100].fill_(3.0), requires_grad=False)
    for _ in range(3):
        lend(SIZE).fill_(255)
    assert torch.equal(kept, torch.full((95,), 3.0))


def test_a_tensor_never_takes_larger_pages_than_its_own() -> None:
    lend = LentPages(8 * SIZE)
    del (large := {"only": lend(2 * SIZE)})["only"]
    small = lend(SIZE)
    assert small.untyped_storage().nbytes() == SIZE
    assert large == {}


def test_no_more_waits_than_was_allowed() -> None:
    lend = LentPages(2 * SIZE)
    for size in (SIZE, SIZE + 4096, SIZE + 8192, SIZE + 12288):
        lend(size)
    assert sum(map(len, lend._lent)) <= 2 * SIZE + 12288


def test_own_pages_are_writable_bytes_of_any_count() -> None:
    for count in (0, 7, SIZE + 3):
        assert own_pages(count).fill_(9).shape == (count,)


def test_two_threads_are_never_lent_the_same_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes its own number and must still find it later; between seeing that pages are free and taking them, time passes."""
    seen_free = pages._is_free

    def slowly(found: mmap.mmap) -> bool:
        free = seen_free(found)
        time.sleep(1e-3)
        return free

    monkeypatch.setattr(pages, "_is_free", slowly)
    lend = LentPages(8 * SIZE)
    torn: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            mine = lend(SIZE)
            mine[:4096].fill_(number)
            time.sleep(1e-3)
            if int(mine[:4096].max()) != number or int(mine[:4096].min()) != number:
                torn.append(number)
            del mine

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 5)))
    assert torn == []
