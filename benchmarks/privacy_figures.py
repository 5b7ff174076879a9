"""`make bench-privacy`: recall, precision and speed of the boundary, and speed of the vault.

Structured data, names and addresses come from pii_corpus; `--presidio` adds files of the generated
sets of presidio-research (JSON lines), `--text` texts for the throughput. An entity counts as found
when every letter and digit of it is covered.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import pii_corpus
import vault_opening
from figure import Figure, table

from autoglm.privacy.boundary import Boundary
from autoglm.privacy.pii.detect import Detector
from autoglm.privacy.pii.kinds import Kind
from autoglm.privacy.policy import load_policy

ROOT = Path(__file__).parents[1]
PROMPT_CHARACTERS = 2000
TEXT_BYTES = 2_000_000
PRESIDIO = {
    "PERSON": "names",
    "ADDRESS": "addresses",
    "STREET_ADDRESS": "addresses",
    "EMAIL_ADDRESS": "email",
    "CREDIT_CARD": "cards",
    "IP_ADDRESS": "ip",
    "IBAN_CODE": "iban",
    "US_SSN": "ssn",
}


def covered(detector: Detector, text: str) -> set[int]:
    """The characters that would be replaced."""
    return {place for each in detector.find(text) for place in range(each.start, each.end)}


def is_hidden(text: str, start: int, end: int, places: set[int]) -> bool:
    """Whether no letter or digit of an entity would leave."""
    return all(place in places or not text[place].isalnum() for place in range(start, end))


def structured_figures(detector: Detector, number: int) -> Iterable[Figure]:
    """Recall and precision by kind."""
    for kind in pii_corpus.STRUCTURED:
        num_found = num_right = num_wrong = 0
        for text in pii_corpus.structured(number, kind, seed=1):
            findings = [each for each in detector.find(text.text) if each.kind is kind]
            for label in text.labels:
                num_found += any(f.start <= label.start and f.end >= label.end for f in findings)
            for each in findings:
                if any(each.start < label.end and label.start < each.end for label in text.labels):
                    num_right += 1
                else:
                    num_wrong += 1
        recall, precision = num_found / number, num_right / max(1, num_right + num_wrong)
        value = f"recall {recall:.4f}, precision {precision:.4f}, n {number}"
        is_met = recall >= 0.99 and precision >= 0.95
        yield Figure(f"{kind}, five spellings", value, "0.99, 0.95", is_met)


def named_figures(detector: Detector, number: int) -> Iterable[Figure]:
    """Recall of names and addresses, by language, and how much of what was found is labelled."""
    totals: Counter[tuple[str, Kind]] = Counter()
    found: Counter[tuple[str, Kind]] = Counter()
    num_right = num_findings = 0
    for text in pii_corpus.named(number, seed=1):
        places = covered(detector, text.text)
        for label in text.labels:
            totals[text.spelling, label.kind] += 1
            found[text.spelling, label.kind] += is_hidden(text.text, label.start, label.end, places)
        for each in detector.find(text.text):
            num_findings += 1
            num_right += any(e.start < each.end and each.start < e.end for e in text.labels)
    for key, total in sorted(totals.items()):
        recall = found[key] / total
        yield Figure(f"{key[1]} {key[0]}", f"recall {recall:.4f}, n {total}", "0.90", recall >= 0.9)
    yield Figure("names and addresses", f"precision {num_right / num_findings:.4f}", "", None)


def presidio_figures(detector: Detector, paths: list[Path]) -> Iterable[Figure]:
    """Recall on the generated sets of presidio-research."""
    for path in paths:
        totals: Counter[str] = Counter()
        found: Counter[str] = Counter()
        num_findings = num_right = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            text, spans = sample["full_text"], sample["spans"]
            places = covered(detector, text)
            for span in spans:
                kind = PRESIDIO.get(span["entity_type"])
                if kind is not None:
                    totals[kind] += 1
                    start, end = span["start_position"], span["end_position"]
                    found[kind] += is_hidden(text, start, end, places)
            for each in detector.find(text):
                num_findings += 1
                num_right += any(
                    each.start < span["end_position"] and span["start_position"] < each.end
                    for span in spans
                )
        for kind, total in totals.items():
            recall = found[kind] / total
            is_gated = kind in ("names", "addresses")
            value = f"recall {recall:.4f}, n {total}"
            target = "0.90" if is_gated else ""
            is_met = recall >= 0.9 if is_gated else None
            yield Figure(f"{path.name}: {kind}", value, target, is_met)
        value = f"precision {num_right / num_findings:.4f}"
        yield Figure(f"{path.name}: all that was found", value, "", None)


def sample_text(paths: list[Path]) -> str:
    """About two megabytes: texts that were given, or the documents and labelled texts of ours."""
    if paths:
        parts = [path.read_bytes()[: TEXT_BYTES // len(paths)] for path in paths]
        return "\n".join(part.decode("utf-8", "ignore") for part in parts)
    pages = [path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("docs/**/*.md"))]
    labelled = [text.text for text in pii_corpus.named(400, seed=2)]
    meetings = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("examples/*.txt"))]
    text = "\n".join([*pages, *labelled, *meetings])
    return text * (TEXT_BYTES // len(text.encode()) + 1)


def speed_figures(detector: Detector, paths: list[Path]) -> Iterable[Figure]:
    """Throughput, and what the boundary adds to a prompt, in processor time."""
    text = sample_text(paths)
    rates = []
    for _ in range(3):
        start = time.process_time()
        detector.find(text)
        rates.append(len(text.encode()) / (time.process_time() - start) / 1e6)
    rate = median(rates)
    yield Figure("throughput of the detectors", f"{rate:.2f} MB/s", "2", rate >= 2)
    boundary = Boundary(load_policy(), detector, bytes(32), None)
    step = PROMPT_CHARACTERS
    prompts = [text[place : place + step] for place in range(0, min(len(text), 400_000), step)]
    times = []
    for prompt in prompts:
        start = time.process_time()
        boundary.leave("inference", {"prompt": prompt})
        times.append(1e3 * (time.process_time() - start))
    half, most = median(times), sorted(times)[int(0.95 * len(times))]
    value = f"{half:.2f} ms, P95 {most:.2f} ms, n {len(times)}"
    yield Figure("boundary, 2,000 characters", value, "5 ms", most <= 5)


def vault_figures(runs: int) -> Iterable[Figure]:
    """Opening in fresh processes, and batches; by the clock."""
    from autoglm.privacy.vault.keystore import KeyFile
    from autoglm.privacy.vault.places import VaultPaths
    from autoglm.privacy.vault.store import Vault

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        paths = VaultPaths(root / "data/v.db", root / "state/a")
        with Vault(paths, KeyFile(root / "key")) as vault:
            start = time.perf_counter()
            for batch in range(20):
                with vault.transaction() as changes:
                    for number in range(1000):
                        changes.put("a", b"%d" % (1000 * batch + number), bytes(200))
            rate = 20_000 / (time.perf_counter() - start)
    yield from vault_opening.figures(runs)
    yield Figure("vault: batches of 1,000", f"{rate:,.0f} writes/s", "10,000", rate >= 10_000)


def main() -> int:
    """Print the table; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10_000, help="texts of each structured kind")
    parser.add_argument("--named", type=int, default=2000, help="texts with names and addresses")
    parser.add_argument("--presidio", type=Path, nargs="+", default=[])
    parser.add_argument("--text", type=Path, nargs="+", default=[])
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    start = time.perf_counter()
    detector = Detector()
    load_ms = 1e3 * (time.perf_counter() - start)
    figures = [Figure("detectors: reading the lists", f"{load_ms:.0f} ms", "", None)]
    figures += structured_figures(detector, args.number)
    figures += named_figures(detector, args.named)
    figures += presidio_figures(detector, args.presidio)
    figures += speed_figures(detector, args.text)
    figures += vault_figures(args.runs)
    print(table(figures))
    return int(any(figure.is_met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
