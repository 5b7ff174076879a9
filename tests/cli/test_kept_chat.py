"""`autoglm chat --keep`: the next call goes on where it ended, and only the vault can read it."""

import json

import pytest

from autoglm.cli.kept_chat import HISTORY, KeptChat
from autoglm.errors import VaultError
from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultHome
from autoglm.privacy.vault.store import Vault
from autoglm.types import Message


@pytest.fixture
def home(tmp_path, monkeypatch) -> VaultHome:
    environ = {"HOME": str(tmp_path)}
    environ |= {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("DATA", "STATE", "CONFIG")}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return VaultHome.find(environ)


@pytest.fixture
def vault(home):
    with Vault(home.paths, KeyFile(home.key_file)) as opened:
        yield opened


@pytest.fixture
def chat(autoglm_process, tiny_bundle):
    def run(*lines: str):
        arguments = ("chat", "--model", tiny_bundle, "--max-tokens", 4, "--json", "--keep", "trip")
        return autoglm_process(*arguments, stdin="\n".join(lines).encode())

    return run


def test_the_next_call_goes_on_until_reset(chat, home, vault):
    first = chat("a canary sings")
    assert first.exit_code == 0, first.stderr
    kept = json.loads(vault.get(HISTORY, b"trip"))
    assert [role for role, _ in kept] == ["user", "assistant"]
    second = chat("again")
    assert "2 turns of before" in second.stderr
    usages = [json.loads(done.stdout)["usage"]["prompt_tokens"] for done in (first, second)]
    assert usages[1] > usages[0]
    assert len(json.loads(vault.get(HISTORY, b"trip"))) == 4
    stored = b"".join(path.read_bytes() for path in home.directory.rglob("*"))
    assert b"canary" not in stored
    assert chat("/reset").exit_code == 0
    assert vault.get(HISTORY, b"trip") is None


def test_without_a_vault_the_error_names_the_remedy(chat, home):
    done = chat("hello")
    assert done.exit_code == 1
    assert "autoglm vault create" in done.stderr


def test_turns_come_back_as_they_were(vault):
    turns = [Message("user", "吗\ud800"), Message("assistant", "是")]
    KeptChat(vault, "名").save(turns)
    assert KeptChat(vault, "名").load() == turns
    assert KeptChat(vault, "other").load() == []


@pytest.mark.parametrize(
    "value", [b"no json", b'{"a": 1}', b'[["pirate", "x"]]', b"[[1]]", b'[["user", 1]]']
)
def test_a_record_that_is_no_conversation_is_an_error(vault, value):
    vault.put(HISTORY, b"one", value)
    with pytest.raises(VaultError, match="is no conversation"):
        KeptChat(vault, "one").load()
