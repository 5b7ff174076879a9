"""Does the boundary hold? Broken filters let nothing out, and planted secrets turn up nowhere.

`filters` sends prompts through a detector that fails in one of many ways; no payload may come out.
`canaries` plants secrets in prompts and looks for them in all that leaves or is written: payloads,
the log, errors, the vault's files and the keys of the answer cache. Its control lets them out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pii_corpus

from autoglm.engine.answer_cache import AnswerCache
from autoglm.errors import PrivacyError
from autoglm.privacy.audit import AuditLog
from autoglm.privacy.boundary import Boundary
from autoglm.privacy.pii.detect import Detector
from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.policy import Form, Where, load_policy
from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault
from autoglm.types import Message, Request

KINDS = (Kind.CN_ID, Kind.MOBILE, Kind.BANK_CARD, Kind.EMAIL)
NUM_FAULTS = 9
SECRET = bytes(range(32))


class BrokenFilter:
    """A detector that fails in a way drawn by chance."""

    def __init__(self, detector: Detector, chance: random.Random) -> None:
        self._detector = detector
        self._chance = chance

    def find(self, text: str) -> Sequence[Finding]:
        """Findings that are wrong, or none."""
        found = self._detector.find(text)
        match self._chance.randrange(NUM_FAULTS):
            case 0:
                raise RuntimeError(text)
            case 1:
                raise MemoryError
            case 2:
                return []
            case 3:
                return found[:-1]
            case 4:
                return found[::-1]
            case 5:
                return [each._replace(end=each.end + 10**6) for each in found]
            case 6:
                return [each._replace(start=-1) for each in found]
            case 7:
                return [each._replace(kind=Kind.IP) for each in found]
            case _:
                return [each._replace(end=each.start) for each in found]


class Leaks(NamedTuple):
    """How much was tried and what came out that must not."""

    number: int
    leaked: list[str]


def break_filters(number: int, *, seed: int = 1) -> Leaks:
    """Send `number` prompts through broken filters; errors must not tell the prompt either."""
    chance = random.Random(seed)
    broken = BrokenFilter(Detector(), chance)
    boundary = Boundary(load_policy(), broken, SECRET, None)
    leaked = []
    for _ in range(number):
        secret = pii_corpus.value_of(Kind.MOBILE, chance)
        try:
            leaked.append(str(boundary.leave("inference", {"prompt": f"手机 {secret}"}).payload))
        except PrivacyError as err:
            if secret in str(err):
                leaked.append(str(err))
    return Leaks(number, leaked)


def plant(number: int, *, seed: int = 1, lets_out: bool = False) -> Leaks:
    """Plant `number` secrets; with `lets_out` the policy does not hide mobile numbers."""
    chance = random.Random(seed)
    policy = load_policy()
    if lets_out:
        plain = policy.classes["mobile"]._replace(where=Where.CLOUD, form=Form.PLAIN)
        policy = policy._replace(classes={**policy.classes, "mobile": plain})
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        log = AuditLog(root / "egress.log", bytes(32))
        boundary = Boundary(policy, Detector(), SECRET, log)
        cache = AnswerCache(0)
        paths = VaultPaths(root / "data" / "vault.db", root / "state" / "anchor")
        secrets, written = [], []
        with Vault(paths, KeyFile(root / "key")) as vault, vault.transaction() as changes:
            for place in range(number):
                secret = pii_corpus.value_of(KINDS[place % len(KINDS)], chance)
                prompt = f"请把 {secret} 记在第{place}条里。"
                secrets.append(secret)
                payload = boundary.leave("inference", {"prompt": prompt, "other": secret}).payload
                written.append(json.dumps(payload, ensure_ascii=False))
                written.append(_refusal(boundary, secret))
                request = Request(messages=(Message("user", prompt),))
                key = cache.key(request, model=b"m", context_tokens=1, max_tokens=1)
                written.append(key.decode("latin-1"))
                changes.put("history", secret.encode(), prompt.encode())
        written += [
            path.read_bytes().decode("latin-1") for path in root.rglob("*") if path.is_file()
        ]
    everything = "\n".join(written)
    return Leaks(number, [secret for secret in secrets if secret in everything])


def _refusal(boundary: Boundary, secret: str) -> str:
    """The error for a prompt that cannot be screened."""
    try:
        return str(boundary.leave("unknown message", {"prompt": secret}).payload)
    except PrivacyError as err:
        return str(err)


def main() -> int:
    """Print what came out as JSON; 1 when anything did, or when the control let nothing out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    filters = break_filters(args.number, seed=args.seed)
    planted = plant(args.number, seed=args.seed)
    control = plant(args.number // 10, seed=args.seed, lets_out=True)
    report = {
        "seed": args.seed,
        "broken_filters": filters.number,
        "payloads_out": len(filters.leaked),
        "canaries": planted.number,
        "canaries_out": len(planted.leaked),
        "control": control.number,
        "control_out": len(control.leaked),
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return int(bool(filters.leaked or planted.leaked or not control.leaked))


if __name__ == "__main__":
    sys.exit(main())
