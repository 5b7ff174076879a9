"""Fixtures of the engine tests."""

import pytest
from tests.fakes import BYTES

from autoglm.engine.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return BYTES
