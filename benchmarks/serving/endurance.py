"""The service under clients that are too many, that leave, and that say nothing."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from random import Random

from serving.client import Answer, Server, chat
from serving.speed import Load, Sample, gaps, percentile

OVERLOAD = 10
POLL_S = 0.002


async def overload(server: Server, load: Load, seconds: float) -> Sample:
    """Ten times the requests that can be served, a steady stream whatever becomes of them."""
    rng = Random(3)
    capacity, usual_gap_ms = await _capacity(server, load, rng)
    interval = 1 / (OVERLOAD * capacity)
    answers: list[Answer] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        answers.append(await server.ask(chat(rng, 20, load.tokens)))

    before, start, number = 0.0, time.perf_counter(), 0
    while (now := time.perf_counter() - start) < seconds:
        if now > seconds / 4 and not before:
            before = server.resident_mib  # queue and slots are full by now
        if now < number * interval:
            await asyncio.sleep(number * interval - now)
            continue
        number += 1
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    after = server.resident_mib
    spent = time.perf_counter() - start
    num_served = sum(one.status == HTTPStatus.OK for one in answers)
    await asyncio.gather(*tasks)
    served = [one for one in answers if one.status == HTTPStatus.OK]
    refused = [one for one in answers if one.status == HTTPStatus.TOO_MANY_REQUESTS]
    return {
        "seconds": spent,
        "capacity_per_s": capacity,
        "offered_per_s": number / spent,
        "served": len(served),
        "refused": len(refused),
        "other_status": len(answers) - len(served) - len(refused),
        "cut_answers": sum(one.tokens != load.tokens for one in served),
        "goodput_share": num_served / spent / capacity,
        "refusal_p50_ms": percentile([one.seconds for one in refused], 0.5) * 1e3,
        "refusal_p99_ms": percentile([one.seconds for one in refused], 0.99) * 1e3,
        "p95_gap_ms": percentile(gaps(served), 0.95) * 1e3,
        "usual_p95_gap_ms": usual_gap_ms,
        "resident_mib": after,
        "grown_share": after / before - 1,
    }


async def _capacity(server: Server, load: Load, rng: Random) -> tuple[float, float]:
    """Requests a second that are served when all slots are always taken, and the usual gap."""
    answers: list[Answer] = []
    deadline = time.perf_counter() + 5

    async def client() -> None:
        while time.perf_counter() < deadline:
            answers.append(await server.ask(chat(rng, 20, load.tokens)))

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(load.slots)))
    rate = len(answers) / (time.perf_counter() - start)
    return rate, percentile(gaps(answers), 0.95) * 1e3


async def disconnects(server: Server, load: Load, count: int) -> Sample:
    """Clients that leave while they wait, are read or answered; when their slot is free again."""
    rng, freed = Random(4), []
    step = percentile(gaps([await server.ask(chat(rng, 8, 256))]), 0.95)
    for _ in range(count):
        body = chat(rng, rng.choice([5, load.long_words]), 1500)
        await server.ask(body, leave_after=rng.random() * 0.2)
        start = time.perf_counter()
        while await _num_requests(server):
            await asyncio.sleep(POLL_S)
        freed.append(time.perf_counter() - start)
    return {
        "disconnects": count,
        "step_ms": step * 1e3,
        "freed_p50_ms": percentile(freed, 0.5) * 1e3,
        "freed_p99_ms": percentile(freed, 0.99) * 1e3,
        "freed_most_ms": max(freed) * 1e3,
        "kv_pages_held": await server.gauge("kv_pages_held"),
    }


async def _num_requests(server: Server) -> float:
    return await server.gauge("requests_running") + await server.gauge("requests_waiting")


async def idle_sockets(server: Server, load: Load, count: int) -> Sample:
    """Connections that say nothing, or half a request, and an answer beside them."""
    rng = Random(5)
    before = await server.ask(chat(rng, 8, load.tokens))
    opened = []
    for number in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /v1/chat/compl" if number % 2 else b"")
        opened.append((reader, writer))
    beside = await server.ask(chat(rng, 8, load.tokens))
    for _, writer in opened:
        writer.close()
    return {
        "sockets": count,
        "status": beside.status,
        "first_token_ms": beside.times[0] * 1e3,
        "usual_first_token_ms": before.times[0] * 1e3,
    }
