"""Sends random bodies, made from the service's own OpenAPI document, and expects no crash, no 5xx.

Usage: fuzz_service.py [--model DIR] [--requests N] [--seed S]. Half of the fields keep to their
bounds, the others hold anything. Without a model it is the embedded one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import string
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from serving.client import own_service

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    -(2**63),
    2**64,
    2**70,
    0.5,
    -0.0,
    1e308,
    -1e-308,
    "",
    "\x00",
    "\ud83d",
    "🙂",
    "你好",
    "{",
    "auto",
    "json",
    "5m",
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"type": "object"},
    {"type": "function"},
    [{"role": "user", "content": "x"}],
    "((((a*)*)*)*)*",
    'start: "a" start | "b"',
)
SHORT = {"max_tokens": 2, "max_completion_tokens": 2, "options": {"num_predict": 2}, "n": 2}
DONE_EVERY = 2000


def fitting(rng: random.Random, schema: dict[str, Any], depth: int = 0) -> Any:
    """A value that keeps to the bounds, or in a deep place anything."""
    if depth > 6:
        return rng.choice(ODD)
    if "anyOf" in schema:
        return fitting(rng, rng.choice(schema["anyOf"]), depth + 1)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return fitting_object(rng, schema, depth)
        case "array":
            most = min(schema["maxItems"], schema["minItems"] + 3)
            count = rng.randint(schema["minItems"], most)
            return [fitting(rng, schema["items"], depth + 1) for _ in range(count)]
        case "integer":
            low, high = schema["minimum"], schema["maximum"]
            return rng.choice([low, high, min(high, low + 1), rng.randint(low, high)])
        case "number":
            low, high = schema.get("minimum", -1e9), schema.get("maximum", 1e9)
            return rng.choice([low, high, rng.uniform(low, high)])
        case "boolean":
            return rng.random() < 0.5
    letters = string.printable + "你好🙂"
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 12)))


def fitting_object(rng: random.Random, schema: dict[str, Any], depth: int) -> dict[str, Any]:
    """With what it must have, and some of the rest, each of it odd now and then."""
    value: dict[str, Any] = {}
    for name, inner in schema.get("properties", {}).items():
        if name in schema.get("required", ()) or rng.random() < 0.2:
            is_odd = rng.random() < 0.1
            value[name] = rng.choice(ODD) if is_odd else fitting(rng, inner, depth + 1)
    if more := schema.get("additionalProperties"):
        keys = [str(rng.randint(0, 300)), rng.choice(["", "x", "-1", "99999999"])]
        value |= {key: fitting(rng, more, depth + 1) for key in keys[: rng.randint(0, 2)]}
    return value


def body_for(rng: random.Random, schema: dict[str, Any]) -> dict[str, Any]:
    """Few fields, so that some requests are answered; answers are short."""
    names = list(schema["properties"])
    chosen = set(schema["required"]) | set(rng.sample(names, min(len(names), rng.randint(0, 3))))
    body: dict[str, Any] = {}
    for name in chosen:
        is_odd = rng.random() < 0.4
        body[name] = rng.choice(ODD) if is_odd else fitting(rng, schema["properties"][name])
    for name, value in SHORT.items():
        if name in names and (name not in body or not is_refused(body[name])):
            body[name] = value
    if "model" in names and rng.random() < 0.9:
        body["model"] = ""
    return body


def is_refused(value: Any) -> bool:
    """Whether a limit is no number and will not be taken."""
    return not isinstance(value, int | float | dict)


class Fuzzer:
    """One connection to a service, and what became of the requests."""

    def __init__(self, port: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.tally: Counter[int] = Counter()
        self.failures: list[str] = []
        document = json.loads(self._send("GET", "/openapi.json", b"")[1])
        self._model = json.loads(self._send("GET", "/v1/models", b"")[1])["data"][0]["id"]
        self._schemas = {
            path: operations["post"]["requestBody"]["content"]["application/json"]["schema"]
            for path, operations in document["paths"].items()
            if "post" in operations and path != "/config/reload"
        }

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _send(self, method: str, path: str, data: bytes) -> tuple[int, bytes]:
        self._connection.request(method, path, data)
        response = self._connection.getresponse()
        return response.status, response.read()

    def ask(self) -> None:
        """Send one request."""
        path = self._rng.choice(list(self._schemas))
        body = body_for(self._rng, self._schemas[path])
        if body.get("model") == "":
            body["model"] = self._model
        text = json.dumps(body)
        try:
            status, answer = self._send("POST", path, text.encode())
        except (http.client.HTTPException, OSError) as err:
            self.failures.append(f"{path} {err!r} {text[:2000]}")
            self._connection.close()
            return
        self.tally[status] += 1
        if status >= 500:
            self.failures.append(f"{path} {status} {answer[:200]!r} {text[:2000]}")


def main() -> int:
    """Fuzz, tell, fail when something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", metavar="DIR", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    arguments = [] if args.model is None else ["--model", str(args.model)]
    start = time.monotonic()
    with own_service([*arguments, "--slots", "8"]) as server:
        fuzzer = Fuzzer(server.port, args.seed)
        for number in range(1, args.requests + 1):
            fuzzer.ask()
            if number % DONE_EVERY == 0:
                print(f"fuzz-serve: {number} of {args.requests}", file=sys.stderr, flush=True)
        fuzzer.close()
        os.kill(server.pid, 0)  # raises when it is gone
        resident = server.resident_mib
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(fuzzer.tally.items()))
    seconds = time.monotonic() - start
    print(f"seed {args.seed}: {args.requests} requests in {seconds:.0f} s: {counts}")
    print(f"resident at the end: {resident:.0f} MiB; failures: {len(fuzzer.failures)}")
    for failure in fuzzer.failures[:10]:
        print(failure)
    return 1 if fuzzer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
