"""The log of egresses shows every change of its past and survives a crash at any byte."""

import multiprocessing

import pytest

from autoglm.errors import PrivacyError
from autoglm.privacy.audit import AuditLog, Egress

KEY = b"k" * 32
EGRESS = Egress("inference", "sent", {"prompt": "screened"}, 0, {"mobile": 2}, 120)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "egress.log"


def filled(path, number=5) -> AuditLog:
    log = AuditLog(path, KEY)
    for place in range(number):
        log.append(EGRESS._replace(dropped=place), time_s=1000.0 + place)
    return log


def test_whole_log_is_verified(path):
    assert filled(path).verify() == 5
    assert [entry["n"] for entry in AuditLog(path, KEY).entries()] == [1, 2, 3, 4, 5]


def test_no_log_is_an_empty_one(path):
    assert AuditLog(path, KEY).verify() == 0


def edits(lines: list[bytes]) -> list[list[bytes]]:
    changed = lines[2].replace(b'"mobile": 2', b'"mobile": 1')
    return [
        [*lines[:2], changed, *lines[3:]],
        [*lines[:2], *lines[3:]],
        [lines[1], lines[0], *lines[2:]],
        [*lines, lines[-1]],
        ["你".encode() + lines[0], *lines[1:]],
        lines[:-1],
        [],
    ]


@pytest.mark.parametrize("edit", range(7))
def test_every_change_of_the_past_is_noticed(path, edit):
    log = filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(edits(lines)[edit]))
    with pytest.raises(PrivacyError):
        log.verify()


def test_nothing_is_added_to_a_shortened_log(path):
    log = filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for shorter in (lines[:-1], []):
        path.write_bytes(b"".join(shorter))
        with pytest.raises(PrivacyError):
            log.append(EGRESS, time_s=2000.0)


def test_log_without_its_head_is_noticed(path):
    log = filled(path)
    path.with_name(path.name + ".head").unlink()
    with pytest.raises(PrivacyError):
        log.verify()


def test_log_of_another_key_is_noticed(path):
    filled(path)
    with pytest.raises(PrivacyError):
        AuditLog(path, b"x" * 32).verify()


def test_line_that_a_crash_cut_off_is_taken_back(path):
    filled(path, 3)
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    head = path.with_name(path.name + ".head")
    for cut in range(start + 1, len(whole)):
        path.write_bytes(whole)
        old_head = head.read_bytes()
        path.write_bytes(whole[:start])
        log = AuditLog(path, KEY)
        head.write_bytes(b"")
        log._write_head(2, whole[:start].splitlines()[-1].split(b" ")[0].decode())
        path.write_bytes(whole[:cut])
        log.append(EGRESS, time_s=2000.0)
        assert log.verify() == 3
        head.write_bytes(old_head)


def append_many(path, number):
    log = AuditLog(path, KEY)
    for place in range(number):
        log.append(EGRESS, time_s=float(place))


def test_processes_that_write_at_once_keep_the_chain(path):
    workers = [FORK.Process(target=append_many, args=(path, 10)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert AuditLog(path, KEY).verify() == 40
