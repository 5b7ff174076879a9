"""A slow, lossy link made of two TUN devices: IP packets wait, queue for the rate, and get lost.

The far end is a network namespace of its own, so TCP sends again, backs off and probes as it would
on a real link. Needs root on Linux and /dev/net/tun.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

NEAR, FAR = "10.77.0.1", "10.77.0.2"
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MTU = 1500
MAX_QUEUE_S = 0.3


@dataclass(frozen=True, slots=True)
class Link:
    """Delay one way in seconds, share of packets lost, bits a second in each direction."""

    delay_s: float = 0.025
    loss: float = 0.01
    rate_bits: float = 2e6
    seed: int = 1


def _tun(name: str, own: str, peer: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    commands = (
        ["addr", "add", own, "peer", peer, "dev", name],
        ["link", "set", "dev", name, "mtu", str(MTU), "up"],
    )
    for command in commands:
        subprocess.run(["ip", *command], check=True)
    return descriptor


class _Direction:
    """Packets on their way from one device to the other."""

    def __init__(self, link: Link, source: int, target: int) -> None:
        self.source, self.target = source, target
        self._link = link
        self._rng = random.Random(link.seed + source)
        self._free_at = 0.0
        self._waiting: list[tuple[float, int, bytes]] = []
        self._count = 0

    def take(self, now: float) -> None:
        """Read what has been sent: drop it, or say when it arrives."""
        while True:
            try:
                packet = os.read(self.source, MTU + 64)
            except BlockingIOError:
                return
            self._count += 1
            start = max(now, self._free_at)
            if self._rng.random() < self._link.loss or start - now > MAX_QUEUE_S:
                continue
            self._free_at = start + len(packet) * 8 / self._link.rate_bits
            arrival = self._free_at + self._link.delay_s
            heapq.heappush(self._waiting, (arrival, self._count, packet))

    def deliver(self, now: float) -> float:
        """Hand over what has arrived; returns when the next packet does."""
        while self._waiting and self._waiting[0][0] <= now:
            os.write(self.target, heapq.heappop(self._waiting)[2])
        return self._waiting[0][0] if self._waiting else now + 1.0


def _pump(link: Link, near: int, far: int, child: int) -> int:
    """Carry packets until the child ends; returns its exit status."""
    directions = (_Direction(link, near, far), _Direction(link, far, near))
    while True:
        now = time.monotonic()
        following = min(direction.deliver(now) for direction in directions)
        select.select([near, far], [], [], max(0.0, min(0.05, following - time.monotonic())))
        now = time.monotonic()
        for direction in directions:
            direction.take(now)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)


def run_behind(link: Link, work: Callable[[], int]) -> int:
    """Run `work` in a process whose only way out is the link; it reaches this machine at NEAR."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            os._exit(3)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        descriptor = _tun("autoglm1", FAR, NEAR)
        socket.send_fds(theirs, [b"x"], [descriptor])
        theirs.recv(1)
        status = work()
        sys.stdout.flush()
        os._exit(status)
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    near = _tun("autoglm0", NEAR, FAR)
    ours.send(b"x")
    try:
        return _pump(link, near, descriptors[0], child)
    finally:
        os.close(near)
