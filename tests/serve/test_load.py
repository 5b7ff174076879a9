"""More requests than slots: order, refusals at once, and slots that are freed when clients go."""

import asyncio
import contextlib
import json
import random
import socket
import threading
import time

import pytest
from tests.serve.conftest import Reply, Server, chat, serving

from autoglm.serve.admission import Admission
from autoglm.serve.errors import BusyError, DeadlineError

ROUTE = "/v1/chat/completions"
LONG = {"max_tokens": 1500, "ignore_eos": True}


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiting_requests_are_served_by_priority_then_in_order() -> None:
    admission, order = Admission(1, 9), []

    async def work(name: str, priority: int) -> None:
        async with admission.slot(priority=priority):
            order.append(name)
            await settle()

    async with admission.slot():
        tasks = []
        for name, priority in (("b", 0), ("c", 0), ("d", 5), ("a", -1)):
            tasks.append(asyncio.create_task(work(name, priority)))
            await settle()
        assert admission.num_waiting == 4
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c", "d"]
    assert (admission.num_running, admission.num_waiting) == (0, 0)


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    admission = Admission(1, 0)
    async with admission.slot():
        with pytest.raises(BusyError) as caught:
            await admission.slot().__aenter__()
    assert caught.value.retry_after_s >= 1


async def test_room_is_known_before_a_request_is_read() -> None:
    admission = Admission(1, 0)
    admission.check_room()
    async with admission.slot():
        with pytest.raises(BusyError):
            admission.check_room()
        admission.resize(1, 1)
        admission.check_room()


async def test_one_who_waits_too_long_leaves() -> None:
    admission = Admission(1, 2)
    async with admission.slot():
        with pytest.raises(DeadlineError):
            await admission.slot(timeout_s=0.01).__aenter__()
    assert (admission.num_running, admission.num_waiting) == (0, 0)


async def test_cancelling_at_any_moment_leaks_no_slot() -> None:
    admission, rng = Admission(3, 100), random.Random(1)

    async def work() -> None:
        async with admission.slot(weight=rng.choice([1, 1, 2, 8])):
            await asyncio.sleep(0)

    for _ in range(300):
        tasks = [asyncio.create_task(work()) for _ in range(6)]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        rng.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.num_running, admission.num_waiting) == (0, 0)


def open_stream(server: Server, body: dict) -> socket.socket:
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def wait_for(condition, seconds: float = 20.0) -> float:
    """How long it took until `condition`."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
    return time.monotonic() - start


def test_overload_is_refused_at_once_and_the_others_get_everything(tiny_server: Server) -> None:
    replies: list[tuple[float, Reply]] = []

    def ask(number: int) -> None:
        """Twelve clients, two slots and two places to wait."""
        for turn in range(6):
            start = time.monotonic()
            reply = tiny_server.post(ROUTE, chat(f"{number} {turn}", **LONG))
            replies.append((time.monotonic() - start, reply))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [(seconds, reply) for seconds, reply in replies if reply.status == 429]
    assert refused
    for seconds, reply in refused:
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json["error"]["type"] == "rate_limit_error"
        assert seconds < 2, "the others take longer, and refusals do not wait for them"
    served = [reply.json for _, reply in replies if reply.status != 429]
    assert {answer["usage"]["completion_tokens"] for answer in served} == {LONG["max_tokens"]}
    assert tiny_server.metric("requests_running") == 0


def test_disconnects_in_every_phase_free_the_slot(tiny_server: Server) -> None:
    rng = random.Random(2)
    for number in range(60):
        body = chat("word " * rng.choice([1, 900]), stream=number % 3 > 0, **LONG)
        connection = open_stream(tiny_server, body)
        if rng.random() < 0.5:
            connection.settimeout(rng.random() * 0.02)
            with contextlib.suppress(TimeoutError):
                connection.recv(1)
        connection.close()
    idle = {"requests_running": 0, "requests_waiting": 0}
    wait_for(lambda: {name: tiny_server.metric(name) for name in idle} == idle)
    assert tiny_server.post(ROUTE, chat()).status == 200


def test_idle_connections_do_not_block(tiny_server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", tiny_server.port)) for _ in range(300)]
    for number, connection in enumerate(idle):
        connection.sendall(b"POST /v1/chat" if number % 2 else b"")
    try:
        assert tiny_server.post(ROUTE, chat()).status == 200
    finally:
        for connection in idle:
            connection.close()


def test_requests_at_once_get_the_answers_of_requests_alone(server: Server) -> None:
    prompts = [f"{number}: tell me about meeting {number}" for number in range(8)]
    fields = {"max_tokens": 24, "temperature": 0.7, "seed": 5}

    def answer(prompt: str) -> str:
        reply = server.post(ROUTE, chat(prompt, **fields))
        return reply.json["choices"][0]["message"]["content"]

    together: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda p=p: together.update({p: answer(p)})) for p in prompts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == {prompt: answer(prompt) for prompt in prompts}


def test_a_service_that_is_stopped_while_it_starts_ends() -> None:
    for _ in range(3):
        with serving():
            """`serving` asks it to end as soon as it says where it listens."""


def test_a_long_text_does_not_keep_others_waiting(server: Server) -> None:
    replies = []
    body = {"prompt": "some words " * 150_000}
    reader = threading.Thread(target=lambda: replies.append(server.post("/tokenize", body)))
    start = time.monotonic()
    reader.start()
    waits = []
    while reader.is_alive():
        begin = time.monotonic()
        assert server.get("/health").status == 200
        waits.append(time.monotonic() - begin)
    seconds = time.monotonic() - start
    assert replies[0].status == 200
    assert max(waits) < seconds / 2
