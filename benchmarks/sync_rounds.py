"""Times rounds through the real service and PostgreSQL over a link of 50 ms, 1 % loss, 2 Mbit/s.

Usage, as root: sync_rounds.py [--rounds N] [--backlog N] [--loss SHARE] [--delay MS] [--rate MBIT]
"""

import argparse
import json
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from figure import Figure, table
from lossy_link import NEAR, Link, run_behind
from postgres import OWNER, Postgres
from ready import await_ready

from autoglm.sync.clock import HybridClock
from autoglm.sync.records import Records
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore

PORT = 18443
ROOT_KEY = bytes(range(32))
AUTOGLM = [sys.executable, "-m", "autoglm", "cloud"]


def measure(token: str, rounds: int, backlog: int, out: Path) -> int:
    """Write the times of single edits, and of a backlog, as the device sees them, to `out`."""
    from autoglm.protocol.channel import Channel, Endpoint
    from autoglm.sync.remote import RemoteHub, synchronise

    sealer = Sealer(ROOT_KEY)
    clock = HybridClock(lambda: time.time_ns() // 1_000_000)
    records = Records(MemoryStore(), sealer.index_key(), clock=clock, rng=random.SystemRandom())
    channel = Channel(Endpoint(address=f"http://127.0.0.1:{PORT}", token=token))
    hub = RemoteHub(channel, sealer)
    synchronise(records, hub)
    times = []
    for n in range(rounds):
        records.put(f"note-{n % 50}", "title", f"title {n}")
        start = time.perf_counter()
        records.receive(hub.serve(records.request()))
        times.append((time.perf_counter() - start) * 1e3)
    for n in range(backlog):
        records.put(f"offline-{n // 4}", f"field{n % 4}", f"value {n}")
    start = time.perf_counter()
    num_rounds = synchronise(records, hub)
    passed = time.perf_counter() - start
    out.write_text(json.dumps([sorted(times), passed, num_rounds]), encoding="utf-8")
    hub.close()
    return 0


def forwarded(token: str, rounds: int, backlog: int, out: Path) -> int:
    """Reach the service under a loopback address, which may be spoken to without TLS."""
    import socket
    import threading

    def copy(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    listener = socket.create_server(("127.0.0.1", PORT))

    def accept() -> None:
        while True:
            local, _ = listener.accept()
            remote = socket.create_connection((NEAR, PORT))
            for end in (local, remote):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((local, remote), (remote, local)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return measure(token, rounds, backlog, out)


def figures(link: Link, rounds: int = 500, backlog: int = 10_000) -> Iterable[Figure]:
    """Rounds of a service of its own, seen from behind the link. Raises RuntimeError."""
    postgres = Postgres()
    process = None
    try:
        postgres.start()
        secret = postgres.directory / "secret"
        out = postgres.directory / "times.json"
        secret.write_text(secrets.token_hex(32), encoding="utf-8")
        subprocess.run(
            [*AUTOGLM, "migrate", "--database", postgres.url(OWNER)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        common = ["--secret-file", str(secret)]
        made = [*AUTOGLM, "token", "--tenant", "bench", *common]
        token = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
        serve = [*AUTOGLM, "serve", "--no-model", "--host", "0.0.0.0", "--port", str(PORT)]
        process = subprocess.Popen(
            [*serve, "--database", postgres.url(), *common], stderr=subprocess.DEVNULL
        )
        await_ready(PORT)
        if run_behind(link, lambda: forwarded(token, rounds, backlog, out)):
            message = "the device behind the link failed"
            raise RuntimeError(message)
        times, passed, num_rounds = json.loads(out.read_text(encoding="utf-8"))
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        postgres.remove()
    p95 = times[int(0.95 * len(times))]
    way = f"{link.delay_s * 2e3:.0f} ms, {link.loss:.0%} loss, {link.rate_bits / 1e6:g} Mbit/s"
    value = f"P95 {p95:.0f} ms, median {statistics.median(times):.0f}, n {rounds}"
    yield Figure(f"round of one edit over {way}", value, "120 ms", p95 <= 120)
    value = f"{passed:.2f} s, {num_rounds} rounds"
    yield Figure(f"{backlog:,} offline edits over {way}", value, "3 s", passed <= 3)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--backlog", type=int, default=10_000)
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--delay", type=float, default=50.0, help="both ways together, in ms")
    parser.add_argument("--rate", type=float, default=2.0, help="Mbit/s each way")
    args = parser.parse_args()
    link = Link(args.delay / 2000, args.loss, args.rate * 1e6)
    found = list(figures(link, args.rounds, args.backlog))
    sys.stdout.write(table(found) + "\n")
    return int(any(figure.is_met is False for figure in found))


if __name__ == "__main__":
    sys.exit(main())
