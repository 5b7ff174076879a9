"""Answers in the vault: the next process finds them, nobody else, and no answer is lost to it."""

import sqlite3

import pytest

from autoglm.engine.answer_cache import Answer
from autoglm.engine.kept_answers import ANSWERS, KeptAnswers
from autoglm.errors import UsageError, VaultError, VaultKeyError
from autoglm.privacy.vault.keystore import KeyFile, Passphrase
from autoglm.privacy.vault.places import VaultHome
from autoglm.privacy.vault.store import Vault
from autoglm.types import Message, Request, SamplingParams, Usage

REQUEST = Request(messages=(Message("user", "what is it?"),), sampling=SamplingParams(seed=1))
MODEL = {"model": b"one", "context_tokens": 100, "max_tokens": 10}


@pytest.fixture
def home(tmp_path, monkeypatch) -> VaultHome:
    environ = {
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return VaultHome.find(environ)


@pytest.fixture
def vault(home) -> None:
    Vault(home.paths, KeyFile(home.key_file)).close()


def opened(home, max_bytes: int = 10_000) -> KeptAnswers:
    return KeptAnswers(max_bytes, Vault(home.paths, KeyFile(home.key_file)))


def answer(text: str) -> Answer:
    return Answer(text, "stop", Usage(3, 4), 1, is_extracted=True)


def run(runtime) -> tuple[str, bool]:
    result = list(runtime.stream(REQUEST))[-1].result
    return result.text, result.route.cached


@pytest.mark.usefixtures("vault")
def test_the_next_process_finds_the_answer(home, make_runtime):
    first, _ = make_runtime(lambda *_: "canary answer", keep_answers=True)
    assert run(first) == ("canary answer", False)
    first.close()
    second, model = make_runtime(lambda *_: "another", keep_answers=True)
    assert run(second) == ("canary answer", True)
    assert model.prompts == []
    second.close()
    stored = b"".join(path.read_bytes() for path in home.directory.rglob("*"))
    assert b"canary" not in stored


@pytest.mark.usefixtures("vault")
def test_answers_are_not_kept_unless_asked_for(home, make_runtime):
    runtime, _ = make_runtime(lambda *_: "ok")
    run(runtime)
    with Vault(home.paths, KeyFile(home.key_file)) as vault:
        assert vault.scan(ANSWERS) == []


def test_without_a_vault_keeping_is_an_error_that_names_the_remedy(home, make_runtime):
    runtime, _ = make_runtime(lambda *_: "ok", keep_answers=True)
    with pytest.raises(VaultError, match="autoglm vault create"):
        run(runtime)


def test_a_vault_with_a_passphrase_is_refused(home, make_runtime):
    Vault(home.paths, Passphrase("long enough")).close()
    runtime, _ = make_runtime(lambda *_: "ok", keep_answers=True)
    with pytest.raises(UsageError, match="rotate"):
        run(runtime)


@pytest.mark.usefixtures("vault")
def test_another_key_opens_no_answers(home, make_runtime):
    home.key_file.write_bytes(bytes(32))
    runtime, _ = make_runtime(lambda *_: "ok", keep_answers=True)
    with pytest.raises(VaultKeyError):
        run(runtime)


def test_answers_come_back_whole_and_the_oldest_go_first(home):
    first = opened(home, max_bytes=3 * 600)
    key = first.key(REQUEST, **MODEL)
    for name in (b"a", b"b", key, b"d"):
        first.put(name, answer(name.hex()[:2]))
    first.close()
    again = opened(home)
    assert [again.get(name) for name in (b"a", b"b")] == [None, answer("62")]
    assert again.get(again.key(REQUEST, **MODEL)) == answer(key.hex()[:2])
    again.close()
    small = opened(home, max_bytes=700)
    small.close()
    with Vault(home.paths, KeyFile(home.key_file)) as vault:
        assert [record.key for record in vault.scan(ANSWERS)] == [b"d"]


def test_an_answer_of_another_version_is_dropped(home):
    with Vault(home.paths, KeyFile(home.key_file)) as vault:
        vault.put(ANSWERS, b"old", b'{"text": "x", "colour": 1}')
    opened(home).close()
    with Vault(home.paths, KeyFile(home.key_file)) as vault:
        assert vault.scan(ANSWERS) == []


def test_an_answer_that_cannot_be_kept_is_not_lost(home, caplog):
    cache = opened(home)
    with sqlite3.connect(home.paths.database) as other:
        other.execute("DELETE FROM vault")
    cache.put(b"a", answer("text"))
    assert cache.get(b"a") == answer("text")
    assert "an answer is not kept" in caplog.text
    cache.close()
