"""Processes of the service come and go behind a balancer; nothing that was acknowledged is lost."""

import random
import signal
import threading
import time
from contextlib import contextmanager

from tests.cloud.conftest import Service
from tests.cloud.test_canaries import Tap
from tests.fakes import ask

from autoglm.cloud.auth import make_token
from autoglm.engine.cloud import CloudEngine
from autoglm.errors import CloudError
from autoglm.privacy.boundary import Boundary
from autoglm.privacy.pii.detect import Detector
from autoglm.privacy.policy import load_policy
from autoglm.protocol.channel import Channel, Endpoint
from autoglm.sync.clock import HybridClock
from autoglm.sync.records import Records
from autoglm.sync.remote import RemoteHub, synchronise
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore

NUM_WRITERS = 3
BOUNDARY = Boundary(load_policy(None), Detector(), bytes(32), None)


class Balancer(Tap):
    """Sends new connections to the process that it was told last."""

    def send_to(self, service):
        self._target = service.port


class Load:
    """Devices that write, and one that asks, until they are told to stop."""

    def __init__(self, balancer, secret, tenant, *, asks):
        self.endpoint = Endpoint(
            address=f"http://127.0.0.1:{balancer.port}",
            token=make_token(secret.strip(), tenant, days=1),
        )
        self.acknowledged = dict.fromkeys(range(NUM_WRITERS), 0)
        self.failures, self.num_answers = [], 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(n,)) for n in range(NUM_WRITERS)
        ]
        if asks:
            self._threads.append(threading.Thread(target=self._ask))

    def device(self, seed):
        sealer = Sealer(bytes(range(32)))
        clock = HybridClock(lambda: time.time_ns() // 1_000_000)
        rng = random.Random(seed)
        records = Records(MemoryStore(), sealer.index_key(), clock=clock, rng=rng)
        return records, RemoteHub(Channel(self.endpoint), sealer)

    def _write(self, index):
        records, hub = self.device(index)
        count = 0
        while not self._stop.is_set():
            count += 1
            records.put(f"n{index}", f"f{count % 5}", count)
            try:
                synchronise(records, hub)
                self.acknowledged[index] = count
            except CloudError as err:
                self.failures.append(err)
        hub.close()

    def _ask(self):
        engine = CloudEngine(Channel(self.endpoint), BOUNDARY)
        while not self._stop.is_set():
            try:
                list(engine.stream(ask("你好", max_tokens=4)))
                self.num_answers += 1
            except CloudError as err:
                self.failures.append(err)

    @contextmanager
    def running(self):
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def lost(self):
        """The acknowledged writes that a new device does not find."""
        reader, hub = self.device(99)
        synchronise(reader, hub)
        hub.close()
        return [
            (index, count)
            for index, last in self.acknowledged.items()
            for count in range(max(1, last - 4), last + 1)
            if reader.get(f"n{index}").get(f"f{count % 5}", 0) < count
        ]


def test_no_request_fails_while_new_processes_replace_old_ones(postgres, secret_file):
    service = Service(postgres, secret_file)
    balancer = Balancer(service.port)
    load = Load(balancer, service.secret, "rollout", asks=True)
    try:
        with load.running():
            for _ in range(2):
                time.sleep(1)
                newer = Service(postgres, secret_file)
                balancer.send_to(newer)
                assert service.stop() == 0
                service = newer
            time.sleep(1)
        assert load.failures == []
        assert min(*load.acknowledged.values(), load.num_answers) > 3
        assert load.lost() == []
    finally:
        balancer.close()
        service.stop()


def test_no_acknowledged_write_is_lost_when_processes_are_killed(
    postgres, secret_file, scale, monkeypatch
):
    """The collector of traces is away all the time, too."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    service = Service(postgres, secret_file, "--no-model")
    balancer = Balancer(service.port)
    load = Load(balancer, service.secret, "killed", asks=False)
    try:
        with load.running():
            for _ in range(2 * scale):
                time.sleep(1)
                service.process.send_signal(signal.SIGKILL)
                service.process.wait()
                service = Service(postgres, secret_file, "--no-model")
                balancer.send_to(service)
            time.sleep(1)
        assert min(load.acknowledged.values()) > 3
        assert load.lost() == []
    finally:
        balancer.close()
        service.stop()
