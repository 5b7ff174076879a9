"""What is done to a vault's files behind its back is noticed; the files give nothing away."""

import multiprocessing
import random
import shutil
import sqlite3
from collections.abc import Callable

import numpy as np
import pytest
from tests.privacy.conftest import all_bytes

from autoglm.errors import (
    StorageError,
    UsageError,
    VaultError,
    VaultKeyError,
    VaultRollbackError,
)
from autoglm.privacy.vault.erase import erase
from autoglm.privacy.vault.keys import DataKeys, hkdf
from autoglm.privacy.vault.keystore import KeyFile, Passphrase
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.seal import NONCE_BYTES, Place
from autoglm.privacy.vault.store import Vault

FORK = multiprocessing.get_context("fork")
TRIALS = 10_000
NUM_RECORDS = 20


def swap(rows, chance):
    one, other = chance.sample(range(len(rows)), 2)
    column = chance.choice(
        [("sealed",), ("tag",), ("collection",), ("seq",), ("tag", "collection")]
    )
    for name in column:
        rows[one][name], rows[other][name] = rows[other][name], rows[one][name]
    return rows


def truncate(rows, chance):
    row = chance.choice(rows)
    row["sealed"] = row["sealed"][: chance.randrange(len(row["sealed"]))]
    return rows


def flip(rows, chance):
    row = chance.choice(rows)
    column = chance.choice(["sealed", "tag"])
    bit = chance.randrange(8 * len(row[column]))
    number = int.from_bytes(row[column], "big") ^ (1 << bit)
    row[column] = number.to_bytes(len(row[column]), "big")
    return rows


def drop(rows, chance):
    return chance.sample(rows, len(rows) - 1)


def renumber(rows, chance):
    chance.choice(rows)["seq"] += 1000
    return rows


def replay(rows, chance, old):
    """Put an old version of a record in place of the present one."""
    choice = chance.randrange(len(rows))
    rows[choice] = next(dict(row) for row in old if row["tag"] == rows[choice]["tag"])
    return rows


def rows_of(database: sqlite3.Connection) -> list[dict[str, object]]:
    names = ("seq", "collection", "tag", "sealed")
    found = database.execute(f"SELECT {', '.join(names)} FROM records ORDER BY seq")
    return [dict(zip(names, row, strict=True)) for row in found]


def write_rows(database: sqlite3.Connection, rows: list[dict[str, object]]) -> None:
    with database:
        database.execute("DELETE FROM records")
        database.executemany("INSERT INTO records VALUES (:seq, :collection, :tag, :sealed)", rows)


def test_swaps_truncations_and_replays_of_records_are_rejected(vault, paths):
    def fill(value: bytes) -> list[dict[str, object]]:
        with vault.transaction() as changes:
            for number in range(NUM_RECORDS):
                changes.put("ab"[number % 2], b"%d" % number, value + b"%d" % number)
        return rows_of(plain)

    plain = sqlite3.connect(paths.database)
    plain.execute("PRAGMA synchronous = off")
    plain.execute("PRAGMA journal_mode = memory")
    old, genuine = fill(b"old"), fill(b"new")
    chance = random.Random(17)
    attacks: list[Callable[..., object]] = [swap, truncate, flip, drop, renumber, replay]
    accepted = []
    for trial in range(TRIALS):
        attack = attacks[trial % len(attacks)]
        rows = [dict(row) for row in genuine]
        rows = attack(rows, chance, old) if attack is replay else attack(rows, chance)
        try:
            write_rows(plain, rows)
        except sqlite3.IntegrityError:
            continue
        if rows_of(plain) == genuine:
            continue
        try:
            vault.verify()
            accepted.append((trial, attack.__name__))
        except VaultError:
            pass
    write_rows(plain, genuine)
    plain.close()
    assert accepted == []
    assert vault.verify() == NUM_RECORDS


def test_place_binds_every_part_of_the_context():
    keys = DataKeys.fresh(vault_id=bytes(16), key_id=1)
    place = Place(b"value", 1, 2, b"tag")
    sealed = keys.sealer.seal(b"plain", place)
    assert keys.sealer.unseal(sealed, place) == b"plain"
    others = [
        place._replace(column=b"state"),
        place._replace(collection=2),
        place._replace(version=3),
        place._replace(tag=b"gat"),
    ]
    for other in others:
        with pytest.raises(VaultError):
            keys.sealer.unseal(sealed, other)
    for change in ({"vault_id": b"1" * 16, "key_id": 1}, {"vault_id": bytes(16), "key_id": 2}):
        with pytest.raises(VaultError):
            DataKeys(keys.data_key, **change).sealer.unseal(sealed, place)


def test_restored_copy_of_the_vault_is_noticed(vault, paths, key_file, tmp_path):
    vault.put("a", b"k", b"old")
    actor = vault.status().actor
    vault.close()
    copy = tmp_path / "copy.db"
    shutil.copy(paths.database, copy)
    with Vault(paths, key_file) as opened:
        opened.put("a", b"k", b"new")
    shutil.copy(copy, paths.database)

    with pytest.raises(VaultRollbackError):
        Vault(paths, key_file)
    with Vault(paths, key_file, accept_rollback=True) as opened:
        assert opened.get("a", b"k") == b"old"
        assert opened.status().actor != actor
    with Vault(paths, key_file) as opened:
        assert opened.get("a", b"k") == b"old"


def test_vault_on_a_device_that_has_not_seen_it_is_noticed(vault, paths, key_file, tmp_path):
    vault.put("a", b"k", b"v")
    moved = VaultPaths(paths.database, tmp_path / "other device" / "anchor")
    with pytest.raises(VaultRollbackError):
        Vault(moved, key_file)


def test_anchor_of_an_attacker_is_not_believed(vault, paths, key_file):
    vault.put("a", b"k", b"v")
    vault.close()
    content = bytearray(paths.anchor.read_bytes())
    for place in (0, 512):
        content[place : place + 8] = bytes(8)
    paths.anchor.write_bytes(content)
    with pytest.raises(VaultRollbackError):
        Vault(paths, key_file)


def test_lagging_anchor_is_no_rollback(vault, paths, key_file):
    vault.put("a", b"k", b"1")
    anchor = paths.anchor.read_bytes()
    vault.put("a", b"k", b"2")
    vault.close()
    paths.anchor.write_bytes(anchor)
    with Vault(paths, key_file) as opened:
        assert opened.get("a", b"k") == b"2"


def test_files_hold_neither_plaintext_nor_names_nor_keys(vault, paths, key_file):
    vault.put("secret-collection", b"secret-key", b"secret-value" * 100)
    vault.rotate()
    keys = vault._keys
    content = all_bytes(paths.database.parent) + all_bytes(paths.anchor.parent)
    raw = [key_file.path.read_bytes(), keys.data_key, keys._index_key, keys._digest_key]
    for secret in (b"secret", *raw, *(key.hex().encode() for key in raw)):
        assert secret not in content


def test_every_wrong_key_gives_the_same_error(vault, paths, key_file, tmp_path):
    vault.put("a", b"k", b"v")
    vault.close()
    other = KeyFile(tmp_path / "other")
    other.create(b"")
    genuine = paths.database.read_bytes()
    messages = set()
    with pytest.raises(VaultKeyError) as wrong:
        Vault(paths, other)
    messages.add(str(wrong.value))
    for column in ("wrapped", "vault_id", "key_id"):
        paths.database.write_bytes(genuine)
        plain = sqlite3.connect(paths.database)
        value = 7 if column == "key_id" else plain.execute("SELECT randomblob(60)").fetchone()[0]
        plain.execute(f"UPDATE vault SET {column} = ?", (value,))
        plain.commit()
        plain.close()
        with pytest.raises(VaultKeyError) as wrong:
            Vault(paths, key_file)
        messages.add(str(wrong.value))
    assert len(messages) == 1


def test_keys_are_derived_as_rfc_5869_does():
    key = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert key.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_passphrase_opens_only_its_own_vault(paths):
    with Vault(paths, Passphrase("long enough")) as opened:
        opened.put("a", b"k", b"v")
    with Vault(paths, Passphrase("long enough")) as opened:
        assert opened.get("a", b"k") == b"v"
    with pytest.raises(VaultKeyError):
        Vault(paths, Passphrase("long Enough"))


def test_short_passphrase_is_refused(paths):
    with pytest.raises(UsageError):
        Vault(paths, Passphrase("short"))


def test_key_file_that_others_may_read_is_refused(vault, paths, key_file):
    vault.close()
    key_file.path.chmod(0o640)
    with pytest.raises(StorageError, match="chmod 600"):
        Vault(paths, key_file)


def test_key_file_that_is_a_link_is_refused(vault, paths, key_file, tmp_path):
    vault.close()
    link = tmp_path / "link"
    link.symlink_to(key_file.path)
    with pytest.raises(StorageError):
        Vault(paths, KeyFile(link))


def test_database_that_is_a_link_is_refused(paths, key_file, tmp_path):
    paths.database.parent.mkdir()
    (tmp_path / "target").touch()
    paths.database.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        Vault(paths, key_file)


def test_files_are_private_to_their_owner(vault, paths, key_file):
    vault.put("a", b"k", b"v")
    files = [paths.database, paths.anchor, key_file.path, *paths.database.parent.iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert paths.database.parent.stat().st_mode & 0o777 == 0o700


def test_deleted_record_leaves_no_sealed_bytes(vault, paths):
    vault.put("a", b"k", b"v" * 500)
    plain = sqlite3.connect(paths.database)
    (sealed,) = plain.execute("SELECT sealed FROM records").fetchone()
    plain.close()
    assert sealed[:100] in all_bytes(paths.database.parent)
    vault.delete("a", b"k")
    assert sealed[:100] not in all_bytes(paths.database.parent)


def test_rotation_leaves_no_old_wrapped_key(vault, paths):
    plain = sqlite3.connect(paths.database)
    (wrapped,) = plain.execute("SELECT wrapped FROM vault").fetchone()
    plain.close()
    assert wrapped in all_bytes(paths.database.parent)
    vault.rotate()
    assert wrapped not in all_bytes(paths.database.parent)


def test_erased_vault_leaves_nothing_and_erasing_may_be_repeated(vault, paths, key_file, tmp_path):
    vault.put("a", b"k", b"v")
    vault.close()
    backup = tmp_path / "backup.db"
    shutil.copy(paths.database, backup)
    for _ in range(2):
        erase(paths, key_file)
        assert not paths.anchor.exists()
        assert not key_file.path.exists()
        assert list(paths.database.parent.iterdir()) == []
    with pytest.raises(VaultKeyError):
        Vault(VaultPaths(backup, paths.anchor), key_file)


def test_damaged_vault_can_be_erased(vault, paths, key_file):
    vault.close()
    paths.database.write_bytes(b"not a database" * 1000)
    with pytest.raises(VaultError):
        Vault(paths, key_file)
    erase(paths, key_file)
    assert not paths.database.exists()


def draw_nonces(keys, number, queue):
    place = Place(b"value")
    queue.put(b"".join(keys.sealer.seal(b"", place)[:NONCE_BYTES] for _ in range(number)))


def num_repeats(blocks: list[bytes]) -> int:
    nonces = np.frombuffer(b"".join(blocks), dtype=f"S{NONCE_BYTES}")
    return len(nonces) - len(np.unique(nonces))


def test_nonces_of_forked_processes_do_not_repeat(scale):
    keys = DataKeys.fresh(vault_id=bytes(16), key_id=1)
    queue = FORK.Queue()
    children = [
        FORK.Process(target=draw_nonces, args=(keys, 5000 * scale, queue)) for _ in range(8)
    ]
    for child in children:
        child.start()
    blocks = [queue.get() for _ in children]
    for child in children:
        child.join()
    assert num_repeats(blocks) == 0
    assert num_repeats([*blocks, blocks[0][:NONCE_BYTES]]) == 1
