"""The phone agent's actions: what its makers show fits, and nothing else."""

import llguidance
import pytest
from tests.fakes import ask, text_of

from autoglm.engine.actions import named_grammar
from autoglm.engine.model import embedded_model, load_model
from autoglm.types import SamplingParams

GOOD = [
    'do(action="Launch", app="微信")',
    'do(action="Tap", element=[500,120])',
    'do(action="Tap", element=[500, 120], message="pay")',
    'do(action="Type", text="hello \\"you\\"")',
    'do(action="Swipe", start=[500,800], end=[500,200])',
    'do(action="Long Press", element=[1,999])',
    'do(action="Double Tap", element=[0,0])',
    'do(action="Back")',
    'do(action="Home")',
    'do(action="Wait", duration="3 seconds")',
    'do(action="Take_over", message="log in")',
    'finish(message="done")',
    '<think>The icon is there.</think>\ndo(action="Back")',
]
BAD = [
    "",
    '<answer>do(action="Back")</answer>',
    "do()",
    'do(action="Fly")',
    'do(action="Tap", element=[500,1200])',
    'do(action="Tap")',
    'finish(message="done") now',
    'do(action="Launch", app="a"b")',
]


@pytest.fixture(scope="module")
def tokenizer():
    text = (embedded_model() / "tokenizer.json").read_text(encoding="utf-8")
    return llguidance.LLTokenizer(text, eos_token=[0])


def fits(tokenizer, text: str) -> bool:
    source = llguidance.LLMatcher.grammar_from_lark(named_grammar("phone_action").source)
    matcher = llguidance.LLMatcher(tokenizer, source)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.tokenize_str(text)
    return (
        matcher.validate_tokens(ids) == len(ids)
        and matcher.consume_tokens(ids)
        and (matcher.is_accepting())
    )


@pytest.mark.parametrize("text", GOOD)
def test_an_action_fits(tokenizer, text) -> None:
    assert fits(tokenizer, text)


@pytest.mark.parametrize("text", BAD)
def test_anything_else_does_not(tokenizer, text) -> None:
    assert not fits(tokenizer, text)


def test_a_model_writes_nothing_but_actions(tokenizer) -> None:
    with load_model(threads=2) as model:
        engine = model.engine(max_tokens=700)
        for seed in range(5):
            sampling = SamplingParams(temperature=2, seed=seed)
            request = ask("Open the app", sampling=sampling, grammar=named_grammar("phone_action"))
            chunks = list(engine.stream(request))
            if chunks[-1].finish_reason == "stop":
                assert fits(tokenizer, text_of(chunks))


def test_other_names_are_grammars() -> None:
    assert named_grammar("start: A") is None
