"""What records show after devices wrote without knowing of each other."""

import random

import pytest
from tests.sync.conftest import sync

from autoglm.errors import InvalidRequestError, SyncError
from autoglm.sync.store import MemoryStore

TEN_YEARS_MS = 10 * 365 * 86_400_000


def test_every_kind_of_value_arrives(make_records, hub):
    first, second = make_records(), make_records()
    values = {"a": "文本", "b": -7, "c": 1.5, "d": True, "e": b"\x00\xff", "f": None}
    for field, value in values.items():
        first.put("note", field, value)
    first.add("note", "tags", "x")
    first.increment("note", "count", 3)
    first.write_text("note", "body", "hello")
    sync(hub, first, second)
    expected = values | {"tags": frozenset({"x"}), "count": 3, "body": "hello"}
    assert second.get("note") == expected
    assert type(second.get("note")["d"]) is bool


def test_later_of_two_concurrent_registers_wins_everywhere(make_records, hub, clock):
    first, second = make_records(), make_records()
    first.put("n", "title", "early")
    clock.now_ms += 5
    second.put("n", "title", "late")
    sync(hub, first, second)
    assert first.get("n") == second.get("n") == {"title": "late"}


@pytest.mark.parametrize("skew_ms", [TEN_YEARS_MS, -TEN_YEARS_MS])
def test_write_that_saw_another_wins_whatever_its_clock_says(make_records, hub, clock, skew_ms):
    first = make_records()
    second = make_records(now_ms=lambda: clock.now_ms + skew_ms)
    for n in range(6):
        writer = (first, second)[n % 2]
        writer.put("n", "title", str(n))
        sync(hub, first, second)
        assert first.get("n") == second.get("n") == {"title": str(n)}


def test_adding_wins_over_removing_at_the_same_time(make_records, hub):
    first, second = make_records(), make_records()
    first.add("n", "tags", "x")
    sync(hub, first, second)
    first.remove("n", "tags", "x")
    second.add("n", "tags", "x")
    sync(hub, first, second)
    assert first.get("n") == second.get("n") == {"tags": frozenset({"x"})}


def test_counts_of_all_devices_add_up_whatever_is_repeated_or_lost(make_records, hub, scale):
    devices = [make_records() for _ in range(5)]
    rng, total = random.Random(1), 0
    for _ in range(1_000 * scale):
        records, by = rng.choice(devices), rng.randrange(-3, 9)
        records.increment("n", "count", by)
        total += by
        request = records.request()
        for _ in range(rng.randrange(1, 6)):
            response = hub.serve(request, 0)
        if rng.random() > 0.1:
            records.receive(response)
    sync(hub, *devices)
    assert [records.get("n")["count"] for records in devices] == [total] * 5


def test_count_from_before_the_device_had_a_number_is_shown_after_it_has_one(make_records, hub):
    records = make_records()
    records.increment("n", "count", 4)
    assert records.get("n") == {"count": 4}
    sync(hub, records)
    assert records.get("n") == {"count": 4}


def test_concurrent_edits_of_a_text_are_both_kept(make_records, hub):
    first, second = make_records(), make_records()
    first.write_text("n", "body", "one two three")
    sync(hub, first, second)
    first.write_text("n", "body", "one and two three")
    second.write_text("n", "body", "one two three four")
    sync(hub, first, second)
    assert first.get("n") == second.get("n") == {"body": "one and two three four"}


def test_long_chain_of_edits_merges_with_an_edit_of_its_beginning(make_records, hub):
    first, second = make_records(), make_records()
    first.write_text("n", "body", "a b")
    sync(hub, first, second)
    second.write_text("n", "body", "a b late")
    for n in range(80):
        first.write_text("n", "body", f"{n} " + first.get("n")["body"])
        sync(hub, first)
    sync(hub, first, second)
    body = first.get("n")["body"]
    assert second.get("n")["body"] == body
    assert {"late", *(str(n) for n in range(80))} <= set(body.split())


def test_field_written_while_another_erases_the_record_stays(make_records, hub):
    first, second = make_records(), make_records()
    first.put("n", "title", "t")
    first.put("n", "state", "s")
    sync(hub, first, second)
    first.erase("n")
    second.put("n", "title", "t2")
    sync(hub, first, second)
    assert first.get("n") == second.get("n") == {"title": "t2"}
    assert first.names() == ["n"]


def test_device_that_missed_collected_tombstones_reads_everything_anew(make_records, hub):
    first, second = make_records(), make_records()
    first.put("gone", "title", "t")
    first.put("kept", "title", "k")
    sync(hub, first, second)
    first.erase("gone")
    sync(hub, first)
    second.put("offline", "title", "o")
    hub.collect(before_ms=1)
    sync(hub, first, second)
    assert first.names() == second.names() == ["kept", "offline"]
    assert second.device.state.epoch == 1


def copy_of(store: MemoryStore) -> MemoryStore:
    """A backup of everything on a device."""
    backup = MemoryStore()
    backup.save_state(store.load_state())
    for cell in store.cells():
        for row in store.cell(cell):
            backup.put(row)
    return backup


def test_restored_backup_that_is_older_than_collected_tombstones_forgets_the_erased(
    make_records, hub
):
    store = MemoryStore()
    first, second = make_records(store), make_records()
    first.put("n", "title", "t")
    sync(hub, first, second)
    backup = copy_of(store)
    second.erase("n")
    sync(hub, second, first)
    hub.collect(before_ms=1)
    restored = make_records(backup)
    sync(hub, restored)
    assert restored.names() == []


def test_restored_backup_takes_a_new_number_and_loses_nothing_the_hub_has(make_records, hub):
    store = MemoryStore()
    first, second = make_records(store), make_records()
    first.put("n", "title", "before")
    first.increment("n", "count", 5)
    sync(hub, first)
    backup = copy_of(store)
    first.put("n", "title", "after")
    first.increment("n", "count", 1)
    sync(hub, first)
    restored = make_records(backup)
    restored.put("m", "title", "new")
    restored.increment("n", "count", 10)
    number = restored.device.state.actor
    sync(hub, restored, second)
    assert restored.device.state.actor != number
    assert second.get("m") == restored.get("m") == {"title": "new"}
    assert second.get("n") == restored.get("n") == {"title": "after", "count": 16}


def test_siblings_stay_at_most_one_per_concurrent_writer(make_records, hub):
    devices = [make_records() for _ in range(100)]
    for turn in range(3):
        for n, records in enumerate(devices):
            records.put("n", "title", f"{turn}.{n}")
        for records in devices:
            records.receive(hub.serve(records.request(), 0))
            while records.device.num_unsent:
                records.receive(hub.serve(records.request(), 0))
        assert len(hub.live()) <= len(devices)
    sync(hub, *devices)
    devices[0].put("n", "title", "last")
    sync(hub, *devices)
    assert len(hub.live()) == 1
    assert {records.get("n")["title"] for records in devices} == {"last"}


def test_edits_of_one_field_before_a_round_are_sent_as_one(make_records):
    records = make_records()
    for n in range(50):
        records.put("n", "title", str(n))
        records.write_text("n", "body", "x" * n)
    assert len(records.device.bases(records.device.cells()[0])) == 1
    assert records.device.num_unsent == 100
    assert len(records.device.cells()) == 2


def test_repeated_push_is_the_same_even_if_its_writes_were_replaced(make_records, hub):
    records = make_records()
    records.put("n", "title", "a")
    sync(hub, records)
    records.put("n", "title", "b")
    first = records.request()
    records.put("n", "title", "c")
    second = records.request()
    assert second.push == first.push


def test_hub_that_lost_data_is_an_error_and_the_device_keeps_everything(make_records, hub):
    records = make_records()
    records.put("n", "title", "t")
    sync(hub, records)
    hub.actors[1].counter = 0
    with pytest.raises(SyncError, match="lost data"):
        hub.serve(records.request(), 0)
    assert records.get("n") == {"title": "t"}


@pytest.mark.parametrize("value", [2**63, [1], {"a": 1}, "x" * (2**20 + 1)])
def test_value_that_cannot_be_kept_is_refused(make_records, value):
    records = make_records()
    with pytest.raises(InvalidRequestError):
        records.put("n", "title", value)
    assert records.names() == []
