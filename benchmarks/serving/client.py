"""Servers under measurement, and an HTTP client that notes when every piece of an answer came."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
START_S = 60.0
WORDS = ("time", "person", "year", "way", "day", "thing", "man", "world", "life", "hand", "part")


@dataclass(slots=True)
class Answer:
    """What a stream brought and when, in seconds since it was asked for."""

    status: int = 0
    text: str = ""
    finish: str = ""
    times: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Of the answer."""
        return int(self.usage.get("completion_tokens", 0))

    @property
    def decode_speed(self) -> float:
        """Tokens a second after the first piece."""
        return (self.tokens - 1) / (self.times[-1] - self.times[0])

    def take(self, event: dict[str, Any]) -> None:
        """Add an event."""
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            delta = choice.get("delta", choice)
            self.text += delta.get("content") or delta.get("text") or ""
            self.finish = choice.get("finish_reason") or self.finish
            for call in delta.get("tool_calls") or []:
                self._take_call(call)

    def _take_call(self, part: dict[str, Any]) -> None:
        function = part["function"]
        if part["index"] == len(self.calls):
            self.calls.append({"name": function["name"], "arguments": ""})
        self.calls[part["index"]]["arguments"] += function.get("arguments") or ""


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves on a port of this machine."""

    port: int
    pid: int

    @property
    def resident_mib(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)
        return int(found[1]) / 1024 if found else 0.0

    async def gauge(self, name: str) -> float:
        """A figure of our own service's /metrics."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        found = re.search(rf"^autoglm_{name} (\S+)$", text, re.M)
        return float(found[1]) if found else 0.0

    async def ask(
        self, body: dict[str, Any], route: str = CHAT, *, leave_after: float | None = None
    ) -> Answer:
        """A streamed answer; the client goes after `leave_after` seconds."""
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = Answer()
        try:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            data = json.dumps(body | options).encode()
            head = (
                f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            writer.write(head.encode() + data)
            if leave_after is not None:
                await asyncio.sleep(leave_after)
                return answer
            answer.status = int((await reader.readline()).split()[1])
            async for line in reader:
                if answer.status != HTTPStatus.OK or line.startswith(b"data: [DONE]"):
                    break
                if line.startswith(b"data: "):
                    answer.take(json.loads(line[6:]))
                    if not answer.usage:
                        answer.times.append(time.perf_counter() - start)
        finally:
            writer.close()
            answer.seconds = time.perf_counter() - start
        return answer


@contextmanager
def own_service(
    arguments: Sequence[str], environ: dict[str, str] | None = None
) -> Iterator[Server]:
    """`autoglm serve` while the block runs."""
    command = [sys.executable, "-m", "autoglm", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | (environ or {})
    )
    if process.stderr is None:
        message = "the service has no standard error"
        raise RuntimeError(message)
    try:
        found = next(match for line in process.stderr if (match := ADDRESS.search(line)))
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield Server(int(found[1]), process.pid)
    finally:
        process.terminate()
        process.wait()
    drain.wait()


@contextmanager
def llama_service(program: Path, model: Path, *, slots: int, threads: int) -> Iterator[Server]:
    """llama.cpp's server with the same slots and threads while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--port {port} -np {slots} -c {slots * 2048} -t {threads} -tb {threads} --no-webui"
    command = [str(program), "-m", str(model), *options.split()]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                if response.status == HTTPStatus.OK:
                    return
        except OSError:
            time.sleep(0.1)
    message = f"{url} did not answer"
    raise RuntimeError(message)


def messages(rng: Random, num_words: int) -> list[dict[str, str]]:
    """A turn of random words."""
    return [{"role": "user", "content": " ".join(rng.choices(WORDS, k=num_words))}]


def chat(rng: Random, words: int, tokens: int, **more: Any) -> dict[str, Any]:
    """A chat whose answer has exactly `tokens` tokens."""
    fixed = {"temperature": 0, "ignore_eos": True, "max_tokens": tokens}
    return fixed | {"messages": messages(rng, words)} | more
