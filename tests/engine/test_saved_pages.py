"""KV pages on disk: what comes back is what was computed, and only from files that are whole."""

from pathlib import Path

import pytest
from tests.fakes import ask, text_of

from autoglm.engine.model import load_model
from autoglm.engine.saved_pages import COLLECTION, SavedPages
from autoglm.errors import StorageError
from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault

PROMPT = "Ann: Friday it is. " * 20
MODEL = b"this model"


@pytest.fixture
def vault(tmp_path):
    paths = VaultPaths(tmp_path / "data" / "vault.db", tmp_path / "state" / "anchor")
    with Vault(paths, KeyFile(tmp_path / "keys" / "key")) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "kv"


def answered(bundle, vault, folder, prompt: str = PROMPT, **more) -> tuple[str, int, int]:
    """An answer by a model that was just loaded: text, cached tokens, bytes that were saved."""
    options = {"identity": MODEL, "max_bytes": 2**30, "is_saved": True, **more}
    with load_model(bundle, threads=2) as model:
        engine = model.engine(max_tokens=8)
        saved = SavedPages(
            folder,
            vault,
            model.native.pages,
            options["identity"],
            max_bytes=options["max_bytes"],
        )
        engine.restore_by(saved.restore)
        *_, last = chunks = list(engine.stream(ask(prompt)))
        num_bytes = saved.save() if options["is_saved"] else 0
    return text_of(chunks), last.usage.cached_tokens, num_bytes


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def test_a_prompt_is_not_read_again_after_a_restart(tiny_bundle, vault, folder) -> None:
    first, cached, num_bytes = answered(tiny_bundle, vault, folder)
    assert cached == 0 and num_bytes > 0
    second, cached, num_bytes = answered(tiny_bundle, vault, folder)
    assert second == first
    assert cached >= 320 and cached % 64 == 0
    assert num_bytes == 0, "nothing is new"


def test_pages_of_an_earlier_run_stay_when_others_come(tiny_bundle, vault, folder) -> None:
    answered(tiny_bundle, vault, folder)
    answered(tiny_bundle, vault, folder, "Bob: not on Friday. " * 20)
    assert len(files(folder)) == 1
    assert answered(tiny_bundle, vault, folder, is_saved=False)[1] >= 320


def test_the_file_holds_nothing_readable_and_its_key_is_in_the_vault(
    tiny_bundle, vault, folder
) -> None:
    answered(tiny_bundle, vault, folder)
    content = files(folder)[0].read_bytes()
    zeros = max(content.count(bytes([value])) for value in range(256)) / len(content)
    assert zeros < 0.01, "sealed bytes are all alike"
    assert files(folder)[0].stat().st_mode & 0o077 == 0
    assert len(vault.scan(COLLECTION)) == 1
    vault.delete(COLLECTION, vault.scan(COLLECTION)[0].key)
    assert answered(tiny_bundle, vault, folder, is_saved=False)[1] == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_file_is_as_good_as_none(tiny_bundle, vault, folder, damage) -> None:
    first = answered(tiny_bundle, vault, folder)[0]
    file = files(folder)[0]
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    if damage == "flip":
        file.write_bytes(content)
    elif damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[: 10 if damage == "cut" else 0])
    again, cached, num_bytes = answered(tiny_bundle, vault, folder)
    assert (again, cached) == (first, 0)
    assert num_bytes > 0, "what was read now is saved anew"
    assert answered(tiny_bundle, vault, folder)[1] >= 320


def test_another_model_finds_nothing(tiny_bundle, vault, folder) -> None:
    answered(tiny_bundle, vault, folder)
    assert answered(tiny_bundle, vault, folder, identity=b"another")[1] == 0
    assert len(files(folder)) == 2


def test_the_files_of_all_models_keep_to_the_bound(tiny_bundle, vault, folder) -> None:
    num_bytes = answered(tiny_bundle, vault, folder)[2]
    bound = num_bytes * 3 // 4
    answered(tiny_bundle, vault, folder, identity=b"another", max_bytes=bound)
    assert len(files(folder)) == 1
    assert files(folder)[0].stat().st_size <= bound
    cached = answered(tiny_bundle, vault, folder, identity=b"another", is_saved=False)[1]
    assert 0 < cached < 320, "the beginning of what was read"


def test_a_folder_that_cannot_be_written_is_named(tiny_bundle, vault, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        answered(tiny_bundle, vault, tmp_path / "file" / "kv")
