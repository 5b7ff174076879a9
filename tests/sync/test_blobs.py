"""Blobs survive cuts and broken blocks, and what is there is not sent again."""

import hashlib
import random

import pytest

from autoglm.errors import CloudError, SyncError
from autoglm.sync.blobs import BLOCK_BYTES, BlockSealer, Manifest, download, upload
from autoglm.sync.seal import Sealer

NUM_BLOCKS = 40


class Blocks:
    """Blocks in memory behind a connection that can be cut, and that breaks some of them."""

    def __init__(self, seed=1, broken_rate=0.0):
        self.stored = {}
        self.calls_left = None
        self.num_moved = 0
        self._rng, self._broken_rate = random.Random(seed), broken_rate

    def _call(self):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                message = "cut"
                raise CloudError(message)

    def missing(self, names):
        return {name for name in names if name not in self.stored}

    def put(self, name, data):
        self.num_moved += 1
        self._call()
        self.stored[name] = data

    def get(self, name):
        self.num_moved += 1
        self._call()
        data = bytearray(self.stored[name])
        if self._rng.random() < self._broken_rate:
            data[self._rng.randrange(len(data))] ^= 1
        return bytes(data)


@pytest.fixture
def sealer():
    return BlockSealer(Sealer(bytes(range(32))))


@pytest.fixture
def blob(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(random.Random(2).randbytes(NUM_BLOCKS * BLOCK_BYTES - 1234))
    return path


def test_blob_comes_back_after_200_cuts_each_way_with_broken_blocks(blob, sealer, tmp_path):
    hub, rng = Blocks(broken_rate=0.01), random.Random(3)
    for direction in ("up", "down"):
        num_cuts = 0
        while True:
            hub.calls_left = rng.randrange(3) if num_cuts < 200 else None
            before, stored = hub.num_moved, len(hub.stored)
            try:
                if direction == "up":
                    manifest = upload(blob, sealer, hub)
                else:
                    download(manifest, tmp_path / "copy", sealer, hub)
            except CloudError:
                num_cuts += 1
                if direction == "up":
                    assert hub.num_moved - before <= len(hub.stored) - stored + 1
                continue
            break
    copy = (tmp_path / "copy").read_bytes()
    assert hashlib.sha256(copy).digest() == hashlib.sha256(blob.read_bytes()).digest()
    assert not (tmp_path / "copy.part").exists()


def test_equal_blocks_are_stored_once_and_say_nothing(sealer, tmp_path):
    path, hub = tmp_path / "blob", Blocks()
    path.write_bytes(b"secret" * 200_000)
    manifest = upload(path, sealer, hub)
    assert len(hub.stored) < len(manifest.names)
    moved = hub.num_moved
    upload(path, sealer, hub)
    assert hub.num_moved == moved
    assert not any(b"secret" in name + data for name, data in hub.stored.items())
    download(Manifest.decode(manifest.encode()), tmp_path / "copy", sealer, hub)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_empty_blob_is_a_blob(sealer, tmp_path):
    path = tmp_path / "empty"
    path.touch()
    manifest = upload(path, sealer, Blocks())
    download(manifest, tmp_path / "copy", sealer, Blocks())
    assert (tmp_path / "copy").read_bytes() == b""


def test_block_of_another_name_is_refused(blob, sealer, tmp_path):
    hub = Blocks()
    manifest = upload(blob, sealer, hub)
    first, second = manifest.names[:2]
    hub.stored[first] = hub.stored[second]
    with pytest.raises(SyncError, match="broken"):
        download(manifest, tmp_path / "copy", sealer, hub)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("data", [b"\xff", Manifest(9, b"", ()).encode()])
def test_field_that_is_no_manifest_is_refused(data):
    with pytest.raises(SyncError, match="manifest"):
        Manifest.decode(data)
