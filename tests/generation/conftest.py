"""A tokenizer of bytes and models on it, shared by the tests of whatever generates."""

import pytest
from tiny_models import byte_tokenizer, random_llama


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return random_llama(tokenizer)
