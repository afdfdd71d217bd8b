"""A tokenizer of bytes and models on it, shared by the tests of whatever generates."""

import pytest
from tiny_models import byte_tokenizer, random_llama


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Toy models gain nothing from several threads, and lose much where these wait for a processor."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return random_llama(tokenizer)
