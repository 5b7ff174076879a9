"""A database whose disk is full: the service says so, and nothing that was acknowledged is lost."""

import asyncio
import random

import pytest
from tests.cloud.conftest import Service
from tests.cloud.test_sync_service import device
from tools.postgres import OWNER, Postgres

from autoglm.cloud.database import migrate
from autoglm.errors import CloudError
from autoglm.sync.remote import synchronise

# Files of the log of writes take 16 MiB, so the tables are the first to meet the limit.
MAX_FILE_BYTES = 17 * 2**20
VALUE_BYTES = 900_000
MOST_VALUES = 40


def test_nothing_acknowledged_is_lost_when_the_disk_of_the_database_is_full(secret_file):
    server = Postgres()
    running = None
    try:
        server.start(max_file_bytes=MAX_FILE_BYTES)
        asyncio.run(migrate(server.url(OWNER)))
        running = Service(server, secret_file, "--no-model")
        records, hub = device(running, "full")
        rng = random.Random(1)
        written: list[bytes] = []
        with pytest.raises(CloudError):
            while len(written) < MOST_VALUES:
                written.append(rng.randbytes(VALUE_BYTES))
                records.put(f"n{len(written)}", "data", written[-1])
                synchronise(records, hub, sleep=lambda _: None)
        num_acknowledged = len(written) - 1
        assert num_acknowledged >= 5
        records.put("later", "data", b"small")
        assert running.get("/healthz")[0] == 200

        reader, reading = device(running, "full", seed=2)
        synchronise(reader, reading)
        assert len(reader.names()) == num_acknowledged

        server.kill()
        server.start()
        synchronise(records, hub)
        synchronise(reader, reading)
        assert reader.get("later") == {"data": b"small"}
        for number, value in enumerate(written, 1):
            assert reader.get(f"n{number}") == {"data": value}
        hub.close()
        reading.close()
    finally:
        if running is not None:
            running.stop()
        server.remove()
