"""Rules that keep an English answer whole and of the kind that is asked for."""

import numpy as np
import pytest

from autoglm.lite.reader.answers import _best_span
from autoglm.lite.reader.clues import tokenize
from autoglm.lite.reader.spans import SpanRules

TEXT = "In 1984 William Edward Simon led the Federal Energy Office with about 515 million dollars."


def best(question: str, favourite: str) -> str:
    """The best span where the networks favour one word a little."""
    tokens = tokenize(TEXT)
    words = [TEXT[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)]
    scores = np.full((len(tokens), 2), -2.0, dtype=np.float32)
    scores[words.index(favourite)] = -1.5
    first, last = _best_span(scores, tokens, 25, SpanRules(tokens, question))
    return TEXT[tokens.starts[first] : tokens.ends[last]]


@pytest.mark.parametrize(
    ("question", "favourite", "answer"),
    [
        ("Who was first?", "Simon", "William Edward Simon"),
        ("What did he lead?", "Office", "Federal Energy Office"),
        ("How much was there?", "515", "515 million"),
        ("When was it?", "In", "1984"),
    ],
)
def test_spans_are_whole_and_of_the_kind_asked_for(question, favourite, answer):
    assert best(question, favourite) == answer


def test_a_year_is_no_thing_and_the_question_no_answer():
    assert best("What was it?", "1984") != "1984"
    assert best("What did William Edward Simon lead?", "Simon") != "William Edward Simon"


def test_a_span_has_no_mark_or_preposition_at_its_ends():
    rules = SpanRules(tokenize("The office, of course, was theirs."), "Whose?")
    assert rules.first.tolist() == [0.0, 0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0]
    assert rules.last[0] == 2.0
