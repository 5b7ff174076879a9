"""The vault keeps what it was given, for threads, processes and after rotation."""

import multiprocessing
import sqlite3
import threading

import pytest

from autoglm.errors import UsageError, VaultError, VaultKeyError
from autoglm.privacy.vault import database
from autoglm.privacy.vault import store as store_module
from autoglm.privacy.vault.anchor import Anchor
from autoglm.privacy.vault.keystore import KeyFile, Passphrase
from autoglm.privacy.vault.places import VaultHome
from autoglm.privacy.vault.store import Vault

SPAWN = multiprocessing.get_context("spawn")


def test_value_is_read_back_after_reopening(paths, key_file):
    with Vault(paths, key_file) as vault:
        vault.put("history", b"k", b"first")
        vault.put("history", b"k", b"second")
        vault.put("settings", b"k", b"other")
    with Vault(paths, key_file, must_exist=True) as vault:
        assert vault.get("history", b"k") == b"second"
        assert vault.get("settings", b"k") == b"other"
        assert vault.get("history", b"none") is None
        assert vault.verify() == 2


def test_scan_gives_changes_in_the_order_of_writing(vault):
    for number in range(5):
        vault.put("log", b"%d" % number, b"v")
    third = vault.scan("log")[2].seq
    vault.put("log", b"0", b"again")
    vault.put("elsewhere", b"x", b"v")
    assert [record.key for record in vault.scan("log", after=third)] == [b"3", b"4", b"0"]
    assert [record.key for record in vault.scan("log", limit=2)] == [b"1", b"2"]


def test_deleted_record_is_gone(vault):
    vault.put("a", b"k", b"v")
    assert vault.delete("a", b"k")
    assert not vault.delete("a", b"k")
    assert (vault.get("a", b"k"), vault.verify()) == (None, 0)


def test_transaction_that_raises_leaves_nothing(vault):
    vault.put("a", b"k", b"before")

    def fail():
        with vault.transaction() as changes:
            changes.put("a", b"k", b"after")
            assert changes.get("a", b"k") == b"after"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (vault.get("a", b"k"), vault.verify()) == (b"before", 1)


def test_nested_transaction_is_refused(vault):
    with vault.transaction(), pytest.raises(UsageError):
        vault.get("a", b"k")


def test_records_out_of_bounds_are_refused(vault):
    for collection, key in (("", b"k"), ("c" * 256, b"k"), ("c", b""), ("c", b"k" * 4097)):
        with pytest.raises(UsageError):
            vault.put(collection, key, b"v")
    assert vault.verify() == 0


def test_rotation_keeps_records_and_changes_every_sealed_value(vault, paths):
    with vault.transaction() as changes:
        for number in range(2500):
            changes.put("a", b"%d" % number, b"v%d" % number)

    def sealed():
        with sqlite3.connect(paths.database) as plain:
            rows = plain.execute("SELECT tag, sealed FROM records").fetchall()
        plain.close()
        return {part for row in rows for part in row}

    before, first_key = sealed(), vault.status().key_id
    vault.rotate()
    assert sealed().isdisjoint(before)
    assert vault.status().key_id == first_key + 1
    assert vault.get("a", b"2499") == b"v2499"
    assert vault.verify() == 2500


def test_other_handle_follows_a_rotation(paths, key_file, vault):
    vault.put("a", b"k", b"v")
    with Vault(paths, key_file) as other:
        vault.rotate()
        assert other.get("a", b"k") == b"v"
        vault.rotate()
        other.put("a", b"k", b"w")
    assert vault.get("a", b"k") == b"w"


def test_failed_rotation_leaves_the_vault_usable(vault):
    vault.put("a", b"k", b"v")

    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vault.rotate(progress=interrupted)
    assert vault.get("a", b"k") == b"v"
    assert vault.put("a", b"k", b"w")
    assert vault.status().key_id == 1


def test_key_is_rotated_by_itself_when_it_was_used_too_often(vault, monkeypatch):
    vault.put("a", b"k", b"v")
    monkeypatch.setattr(store_module, "ROTATE_AT_SEALS", 2)
    vault.put("a", b"l", b"w")
    status = vault.status()
    assert (status.key_id, status.num_seals) == (2, 3)
    assert vault.verify() == 2


def test_sealing_stops_at_the_bound_of_nonces(vault, monkeypatch):
    vault.put("a", b"k", b"v")
    monkeypatch.setattr("autoglm.privacy.vault.state.MAX_SEALS", vault.status().num_seals)
    with pytest.raises(VaultError, match="rotate"):
        vault.put("a", b"k", b"w")
    assert vault.get("a", b"k") == b"v"


def test_another_key_store_takes_over(paths, key_file, vault):
    vault.put("a", b"k", b"v")
    vault.rotate(Passphrase("correct horse"))
    with Vault(paths, Passphrase("correct horse")) as other:
        assert other.get("a", b"k") == b"v"
    with pytest.raises(VaultKeyError):
        Vault(paths, Passphrase("correct house"))
    with pytest.raises(UsageError):
        Vault(paths, key_file)


def test_handle_of_a_parent_is_refused_in_a_forked_child(vault):
    vault.put("a", b"k", b"v")
    vault._process += 1
    with pytest.raises(VaultError, match="fork"):
        vault.get("a", b"k")
    vault._process -= 1


def count_up(paths, key, worker, rounds):
    """Add one to a shared counter and store a record of its own, `rounds` times."""
    with Vault(paths, KeyFile(key)) as vault:
        for number in range(rounds):
            with vault.transaction() as changes:
                count = int(changes.get("shared", b"count") or b"0")
                changes.put("shared", b"count", b"%d" % (count + 1))
                changes.put("own", b"%d-%d" % (worker, number), b"v")


def test_opening_while_another_commits_is_no_rollback(paths, key_file, monkeypatch):
    read = Anchor.read
    with Vault(paths, key_file) as writer:

        def read_after_a_commit(anchor):
            with writer.transaction() as changes:
                changes.put("settings", b"k", b"v")
            return read(anchor)

        monkeypatch.setattr(Anchor, "read", read_after_a_commit)
        Vault(paths, key_file).close()


def test_processes_that_write_at_once_lose_nothing(paths, key_file):
    workers = [
        SPAWN.Process(target=count_up, args=(paths, key_file.path, worker, 25))
        for worker in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Vault(paths, key_file) as vault:
        assert vault.get("shared", b"count") == b"100"
        assert vault.verify() == 101


def test_threads_share_a_handle(vault):
    def work(worker):
        for number in range(20):
            vault.put("a", b"%d-%d" % (worker, number), b"v")
            assert vault.get("a", b"%d-%d" % (worker, number)) == b"v"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert vault.verify() == 80


@pytest.mark.parametrize(
    ("version", "mode"),
    [((3, 40, 1), "truncate"), ((3, 51, 2), "truncate"), ((3, 51, 3), "wal"), ((4, 0, 0), "wal")],
)
def test_wal_is_used_only_where_it_is_safe(version, mode):
    assert database.journal_mode(version) == mode


def test_sqlite_that_is_too_old_is_refused():
    with pytest.raises(VaultError):
        database.journal_mode((3, 36, 0))


def test_vault_in_wal_mode_of_a_newer_sqlite_is_taken_back_to_a_safe_mode(paths, key_file):
    with Vault(paths, key_file) as vault:
        vault.put("a", b"k", b"v")
    plain = sqlite3.connect(paths.database)
    assert plain.execute("PRAGMA journal_mode = wal").fetchone() == ("wal",)
    plain.close()
    with Vault(paths, key_file) as vault:
        assert vault.get("a", b"k") == b"v"
    plain = sqlite3.connect(paths.database)
    mode = database.journal_mode(sqlite3.sqlite_version_info)
    assert plain.execute("PRAGMA journal_mode").fetchone()[0] in (mode, "delete")
    plain.close()


def test_home_keeps_database_key_and_anchor_apart(tmp_path):
    home = VaultHome.find({"HOME": str(tmp_path)})
    parents = {home.paths.database.parent, home.paths.anchor.parent, home.key_file.parent}
    assert len(parents) == 3
    other = VaultHome.find({"HOME": str(tmp_path)}, tmp_path / "elsewhere")
    assert other.key_file != home.key_file


def test_no_vault_is_made_where_one_must_exist(paths, key_file):
    with pytest.raises(VaultError):
        Vault(paths, key_file, must_exist=True)
    assert not paths.database.exists()
