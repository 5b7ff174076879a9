"""`autoglm vault`: what its actions do to a store of the user."""

import json

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring

from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultHome
from autoglm.privacy.vault.store import Vault


@pytest.fixture
def home(tmp_path, monkeypatch) -> VaultHome:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # The variable counts for processes of their own, the call for this one.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr(keyring.core, "_keyring_backend", NoKeyring())
    return VaultHome.find({name: str(tmp_path / name) for name in ("HOME",)} | xdg(tmp_path))


def xdg(directory):
    names = ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
    return {name: str(directory / name) for name in names}


@pytest.fixture
def filled(autoglm, home) -> VaultHome:
    """A store with two records, made by the command."""
    assert autoglm("vault", "create").exit_code == 0
    with Vault(home.paths, KeyFile(home.key_file)) as vault:
        vault.put("history", b"one", "文本".encode())
        vault.put("history", b"two", b"\xff\x00")
    return home


def test_status_tells_what_the_store_is(autoglm, filled):
    done = autoglm("vault", "status", "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (report["keystore"], report["num_records"], report["key_id"]) == ("file", 2, 1)
    assert report["path"] == str(filled.paths.database)
    assert "2 records" in autoglm("vault", "status").stdout


def test_status_of_no_store_is_an_error(autoglm, home):
    done = autoglm("vault", "status")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "there is no vault here" in done.stderr
    assert not home.directory.exists()


def test_store_is_not_made_twice(autoglm, filled):
    assert autoglm("vault", "create").exit_code == 2


def test_rotate_counts_the_key_up_and_keeps_the_records(autoglm, filled):
    assert autoglm("vault", "rotate").exit_code == 0
    report = json.loads(autoglm("vault", "status", "--json").stdout)
    assert (report["key_id"], report["num_records"]) == (2, 2)


def test_rotate_moves_the_key_to_a_passphrase(autoglm_process, filled):
    words, wrong = b"long enough\n", b"wrong words\n"
    assert autoglm_process("vault", "rotate", "--key", "passphrase", stdin=words).exit_code == 0
    assert not filled.key_file.exists()
    assert autoglm_process("vault", "status", stdin=words).exit_code == 0
    refused = autoglm_process("vault", "status", stdin=wrong)
    expected = "autoglm: this key does not open the vault\n"
    assert (refused.exit_code, refused.stderr) == (1, expected)
    assert autoglm_process("vault", "status").exit_code == 1


def test_export_writes_every_record_privately(autoglm, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    done = autoglm("vault", "export", out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert done.exit_code == 0
    assert [(line["key"], line.get("value"), line.get("value_base64")) for line in lines] == [
        ("one", "文本", None),
        ("two", None, "/wA="),
    ]
    assert out.stat().st_mode & 0o777 == 0o600
    assert autoglm("vault", "export", out).exit_code == 2
    assert len(autoglm("vault", "export", "-").stdout.splitlines()) == 2


def test_export_needs_a_file(autoglm, filled):
    assert autoglm("vault", "export").exit_code == 2
    assert autoglm("vault", "status", "somewhere").exit_code == 2


def test_erase_asks_first_and_leaves_nothing(autoglm, filled):
    assert autoglm("vault", "erase").exit_code == 2
    assert filled.paths.database.exists()
    assert autoglm("vault", "erase", "--yes").exit_code == 0
    left = (filled.paths.database, filled.paths.anchor, filled.key_file)
    assert [path for path in left if path.exists()] == []


def test_copy_put_back_needs_a_word_of_the_user(autoglm, filled):
    copy = filled.paths.database.read_bytes()
    assert autoglm("vault", "rotate").exit_code == 0
    filled.paths.database.write_bytes(copy)
    refused = autoglm("vault", "status")
    assert refused.exit_code == 1
    assert "--accept-rollback" in refused.stderr
    assert autoglm("vault", "status", "--accept-rollback").exit_code == 0
    assert autoglm("vault", "status").exit_code == 0


def test_damaged_file_is_one_line(autoglm, filled):
    filled.paths.database.write_bytes(b"no database at all" * 100)
    done = autoglm("vault", "status")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "damaged" in done.stderr
