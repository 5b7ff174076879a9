"""Answers of a given form: whatever the model prefers, what it writes parses and validates."""

import json
import random
import re
import threading
from typing import Any

import jsonschema
import pytest
from tests.fakes import ask, text_of

from autoglm import AutoGLMClient
from autoglm.engine.base import ALLOWED, LAST
from autoglm.engine.grammar import MAX_SOURCE_CHARS, check_grammar
from autoglm.engine.model import load_model
from autoglm.errors import GrammarError
from autoglm.types import Cancellation, Grammar, Request, SamplingParams

WILD = SamplingParams(temperature=3.0, seed=1)


@pytest.fixture(scope="module")
def engine():
    with load_model(threads=2) as model:
        yield model.engine(max_tokens=700)


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Objects, arrays, strings, numbers, choices; nested up to three levels."""
    kinds = ["string", "integer", "number", "boolean", "enum", "pattern", "null"]
    kind = rng.choice(kinds if depth > 2 else [*kinds, "object", "object", "array"])
    match kind:
        case "object":
            names = [f"{rng.choice('abcxyz')}{n}" for n in range(rng.randrange(1, 4))]
            inner = {name: random_schema(rng, depth + 1) for name in names}
            required = [name for name in names if rng.random() < 0.7]
            return {
                "type": "object",
                "properties": inner,
                "required": required,
                "additionalProperties": False,
            }
        case "array":
            low = rng.randrange(3)
            items = random_schema(rng, depth + 1)
            return {"type": "array", "items": items, "minItems": low, "maxItems": low + 3}
        case "enum":
            return {"enum": rng.sample(["red", "green", 3, None, True, "中文"], 3)}
        case "pattern":
            return {"type": "string", "pattern": "^[a-f]{2,4}-[0-9]+$"}
        case "integer":
            return {"type": "integer", "minimum": -5, "maximum": 120}
    return {"type": kind}


@pytest.mark.parametrize("seed", range(60))
def test_a_random_schema_is_kept_at_any_temperature(engine, seed) -> None:
    schema = {
        "type": "object",
        "properties": {"value": random_schema(random.Random(seed))},
        "required": ["value"],
        "additionalProperties": False,
    }
    sampling = SamplingParams(temperature=seed % 3, seed=seed)
    chunks = list(engine.stream(ask("Make one up.", sampling=sampling, schema=schema)))
    assert chunks[-1].finish_reason == "stop"
    jsonschema.validate(json.loads(text_of(chunks)), schema)


FORMATS = ["time", "date-time", "duration", "email", "hostname", "ipv6", "uri", "uuid", "date"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_of_a_format_is_led_to_its_end(engine, name) -> None:
    """The model would write digits for ever."""
    text = {"type": "string", "format": name}
    schema = {"type": "object", "properties": {"a": text, "b": text}, "required": ["a", "b"]}
    digits = {token: 90.0 for token in engine.token_ids("0") + engine.token_ids("1")}
    sampling = SamplingParams(logit_bias=digits)
    chunks = list(engine.stream(ask("Now.", sampling=sampling, schema=schema, max_tokens=500)))
    assert chunks[-1].finish_reason == "stop"
    assert len(json.loads(text_of(chunks))["a"]) > 1


def test_a_token_may_come_exactly_where_a_mask_says_so(engine) -> None:
    """Free draws that are looked at and masked ones are then distributed alike."""
    compiler = engine._grammars
    num_refused = 0
    for seed in range(12):
        rng = random.Random(seed)
        grammar = Grammar("schema", json.dumps(random_schema(rng)))
        constraint = compiler.start(grammar, 900, may_force=True)
        says = ALLOWED
        for _ in range(15):
            if says & LAST:
                break
            while (mask := constraint.mask()) is None:  # still made by another thread
                pass
            allowed = [token for token in range(8 * len(mask)) if mask[token // 8] >> token % 8 & 1]
            for token in rng.sample(range(8 * len(mask)), 300):
                if token not in allowed:
                    assert constraint.take(token) == 0
                    num_refused += 1
            says = constraint.take(rng.choice(allowed))
            assert says & ALLOWED
    assert num_refused > 10_000


def test_every_token_of_a_form_has_its_logprob(engine) -> None:
    sampling = SamplingParams(temperature=1, seed=2, num_logprobs=2)
    schema = {"type": "object", "properties": {"long_name": {"type": "integer"}}}
    schema |= {"required": ["long_name"], "additionalProperties": False}
    chunks = list(engine.stream(ask("Make one up.", sampling=sampling, schema=schema)))
    ids = [token for chunk in chunks for token in chunk.token_ids]
    assert [one.token for chunk in chunks for one in chunk.logprobs] == ids
    assert len(ids) > 5


def test_regex_and_choice_are_kept(engine) -> None:
    regex = Grammar("regex", r"[A-Z]{3}-[0-9]{2,4}(, [a-z]+)?")
    answer = text_of(list(engine.stream(ask("Id?", sampling=WILD, grammar=regex, max_tokens=90))))
    assert re.fullmatch(regex.source, answer)
    choice = Grammar("choice", '["approve", "reject", "需要讨论"]')
    answer = text_of(list(engine.stream(ask("Verdict?", sampling=WILD, grammar=choice))))
    assert answer in ("approve", "reject", "需要讨论")


def test_a_lark_grammar_is_kept(engine) -> None:
    grammar = Grammar("lark", 'start: "(" start ")" | /[0-9]/')
    answer = text_of(list(engine.stream(ask("x", sampling=WILD, grammar=grammar, max_tokens=60))))
    assert re.fullmatch(r"\(*[0-9]\)*", answer)
    assert answer.count("(") == answer.count(")")


def test_a_constrained_answer_is_the_same_alone_and_beside_others(engine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    request = ask("Go", sampling=SamplingParams(temperature=1, seed=4), schema=schema)
    alone = text_of(list(engine.stream(request)))
    results: list[str] = []

    def work(other: Request) -> None:
        results.append(text_of(list(engine.stream(other))))

    threads = [threading.Thread(target=work, args=(request,)) for _ in range(3)]
    threads += [threading.Thread(target=work, args=(ask("Other", max_tokens=50),))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(alone) == 3


def test_an_answer_that_is_cut_says_so(engine) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 400}
    chunks = list(engine.stream(ask("Count", schema=schema, max_tokens=20)))
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 20


def test_a_constrained_answer_can_be_cancelled(engine) -> None:
    cancellation = Cancellation()
    grammar = Grammar("regex", "[a-z ]{500,2000}")
    chunks = []
    for chunk in engine.stream(ask("x", grammar=grammar, cancellation=cancellation)):
        chunks.append(chunk)
        cancellation.cancel()
    assert chunks[-1].finish_reason == "cancelled"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "("),
        Grammar("regex", "(a)" * 60_000),
        Grammar("regex", "a{3000}"),
        Grammar("regex", "a{1,99999999999999999999}"),
        Grammar("regex", "x" * (MAX_SOURCE_CHARS + 1)),
        Grammar("lark", "start: nothing"),
        Grammar("schema", '{"type": "wizard"}'),
        Grammar("schema", '{"type": "string", "maxLength": 100000}'),
        Grammar("schema", '{"type": "string", "pattern": "(a{9999})"}'),
        Grammar("schema", '{"allOf": [' * 60 + "{}" + "]}" * 60),
    ],
    ids=lambda grammar: f"{grammar.kind} {grammar.source[:20]}",
)
def test_what_cannot_be_compiled_or_is_too_much_is_refused(engine, grammar) -> None:
    with pytest.raises(GrammarError):
        list(engine.stream(ask("x", grammar=grammar)))


def test_bounds_are_checked_before_anything_is_compiled() -> None:
    with pytest.raises(GrammarError, match="more than 1000 groups"):
        check_grammar(Grammar("regex", "(a)" * 2000))


def test_the_sdk_gives_the_parsed_answer() -> None:
    schema = {
        "type": "object",
        "properties": {"people": {"type": "array", "items": {"type": "string"}, "maxItems": 3}},
        "required": ["people"],
    }
    with AutoGLMClient(threads=2) as client:
        result = client.generate("Who speaks?", "Ann: Hi. Bob: Hello.", schema=schema)
    jsonschema.validate(result.data, schema)
    assert json.loads(result.text) == result.data
