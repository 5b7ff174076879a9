"""Fast and exact: what they do to logits, cache and answers."""

import numpy as np
import pytest

from autoglm import AutoGLMClient
from autoglm.engine.model import load_model
from autoglm.engine.native import NativeModel
from autoglm.engine.precision import kv_token_bytes
from autoglm.errors import UsageError
from autoglm.modelfile.bundle import open_bundle

PAGE_TOKENS = 64


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_fast_rounds_more_than_exact_and_not_much(tiny_bundle):
    ids = list(range(3, 90))
    with load_model(tiny_bundle, threads=1) as exact:
        expected = exact.logits(ids)
    with load_model(tiny_bundle, threads=1, precision="fast") as fast:
        error = relative_error(fast.logits(ids), expected)
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_the_cache_takes_what_is_predicted(tiny_bundle, precision):
    bundle = open_bundle(tiny_bundle)
    model = NativeModel(bundle, pool_tokens=PAGE_TOKENS, threads=1, precision=precision)
    predicted = PAGE_TOKENS * kv_token_bytes(bundle.config, precision)
    assert model.kv_bytes(PAGE_TOKENS) == predicted


def test_an_unknown_precision_is_named(tiny_bundle):
    with pytest.raises(UsageError, match=r"^precision is 'half'; expected fast or exact$"):
        load_model(tiny_bundle, precision="half")


def test_clients_answer_fast_unless_told(tiny_bundle):
    builder = AutoGLMClient.builder().model(tiny_bundle)
    for name in ("fast", "exact"):
        with builder.precision(name).build() as client:
            assert client.generate("Hello", max_tokens=4, temperature=0).text
    with pytest.raises(UsageError, match=r"precision is 'half'"):
        builder.precision("half").build()
