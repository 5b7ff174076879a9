"""Instruction examples from the licensed dialogue, summary, question and intent sets.

Only training splits are read. Texts are cut to fit a row, never the answers.
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoglm.lite.dialogue_records import crosswoz, friendsqa
from autoglm.lite.salience import terms
from autoglm.lite.sources import clean_line, read_records
from autoglm.lite.tasks import NOT_FOUND, SUMMARY_PROMPTS, Example
from autoglm.lite.transcripts import Turn, rename, render

_HEADERS = {
    "GENHX": "history of present illness",
    "FAM/SOCHX": "family and social history",
    "PASTMEDICALHX": "past medical history",
    "CC": "chief complaint",
    "ROS": "review of systems",
    "PASTSURGICAL": "past surgical history",
    "ALLERGY": "allergies",
    "MEDICATIONS": "medications",
    "ASSESSMENT": "assessment",
    "EXAM": "exam",
    "DIAGNOSIS": "diagnosis",
    "PLAN": "plan",
}
_ASK_INTENT = ("What is the intent of this utterance?", "Classify the intent of this utterance")


def _fit(turns: list[Turn], max_chars: int) -> list[Turn]:
    """An even sample of the turns that fits `max_chars`, in order, the longest cut."""
    turns = [Turn(t.speaker, clean_line(t.text)) for t in turns]
    turns = [t for t in turns if len(t.text.split()) > 2]
    limit = max(120, max_chars // 6)
    turns = [
        Turn(t.speaker, t.text if len(t.text) <= limit else t.text[:limit].rsplit(" ", 1)[0])
        for t in turns
    ]
    total = sum(len(t.text) + len(t.speaker) + 3 for t in turns)
    if total <= max_chars:
        return turns
    by_length = sorted(range(len(turns)), key=lambda i: -len(turns[i].text))
    kept: set[int] = set()
    size = 0
    for index in by_length:
        size += len(turns[index].text) + len(turns[index].speaker) + 3
        if size > max_chars:
            break
        kept.add(index)
    return [turns[index] for index in sorted(kept)]


def _span(turns: list[Turn], spans: list[list[str]]) -> list[Turn]:
    return [turn for first, last in spans for turn in turns[int(first) : int(last) + 1]]


def qmsum(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Query-based and whole-meeting summaries; the text is the relevant span, or longest turns."""
    for record in read_records(data_dir, "qmsum"):
        turns = [Turn(t["speaker"], t["content"]) for t in record["meeting_transcripts"]]
        for item in record["general_query_list"]:
            text = render(_fit(turns, max_chars), "en")
            prompt = rng.choice((item["query"], "Summarize the whole meeting"))
            yield Example("qmsum", prompt, text, item["answer"])
        for item in record["specific_query_list"]:
            text = render(_fit(_span(turns, item["relevant_text_span"]), max_chars), "en")
            yield Example("qmsum", item["query"], text, item["answer"])


def crd3(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Summaries of game-session chunks; only well-aligned ones."""
    for record in read_records(data_dir, "crd3"):
        if record["score"] < 1.0 or len(record["summary"]) > 420:
            continue
        turns = [Turn(str(t["speaker"]).title(), t["text"]) for t in record["turns"]]
        prompt = rng.choice(
            ("Summarize this conversation", "Summarize the conversation in a paragraph")
        )
        yield Example("crd3", prompt, render(_fit(turns, max_chars), "en"), record["summary"])


def mtsdialog(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Sections of a clinical note from a doctor-patient dialogue."""
    for record in read_records(data_dir, "mtsdialog"):
        text = "\n".join(clean_line(line) for line in record["dialogue"].splitlines())
        header = _HEADERS.get(record["section_header"], "note")
        answer = clean_line(record["section_text"])
        if len(text) <= max_chars * 1.2 and len(answer) <= 700:
            prompt = rng.choice(("Summarize the {} from this visit", "Write the {}")).format(header)
            yield Example("mtsdialog", prompt, text, answer)


def acibench(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Assessment paragraphs of a visit note; the dialogue is its longest turns."""
    for record in read_records(data_dir, "acibench"):
        lines = re.findall(r"\[(\w+)\] (.+)", record["dialogue"])
        turns = _fit([Turn(name.title(), clean_line(text)) for name, text in lines], max_chars)
        parts = [part for part in record["note"].split("\n\n") if 80 <= len(part) <= 500]
        for part in rng.sample(parts, min(2, len(parts))):
            answer = clean_line(part.replace("\n", " "))
            yield Example("acibench", "Write a part of the visit note", render(turns, "en"), answer)


def primock57(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Consultation highlights."""
    for record in read_records(data_dir, "primock57"):
        turns = [
            Turn(t["speaker"].title(), re.sub(r"</?\w+/?>", "", t["text"])) for t in record["turns"]
        ]
        points = "\n".join(f"- {clean_line(point)}" for point in record["note"]["highlights"])
        prompt = rng.choice(SUMMARY_PROMPTS["en"])
        yield Example("primock57", prompt, render(_fit(turns, max_chars), "en"), points)


def ethpm(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Highlights, action items and decisions with the turns around their time stamps."""
    for record in read_records(data_dir, "ethpm"):
        turns = [(t["t"], Turn(t["speaker"], t["text"])) for t in record["turns"]]
        tldr = record["tldr"]
        for topic, items in (tldr.get("highlights") or {}).items():
            points = [item for item in items if isinstance(item, dict) and item.get("highlight")]
            near = _around(turns, points, max_chars)
            grounded = [p["highlight"] for p in points if _coverage(p["highlight"], near) >= 0.6]
            if grounded:
                answer = "\n".join(f"- {clean_line(point)}" for point in grounded[:5])
                prompt = rng.choice(
                    (
                        *SUMMARY_PROMPTS["en"],
                        f"Summarize the discussion of {topic.replace('_', ' ')}",
                    )
                )
                yield Example("ethpm", prompt, near, answer)
        actions = [
            a for a in tldr.get("action_items") or [] if isinstance(a, dict) and a.get("action")
        ]
        near = _around(turns, actions, max_chars)
        actions = [a for a in actions if _coverage(a["action"], near) >= 0.6]
        if actions:
            answer = "\n".join(
                f"- {a.get('owner') or 'Unassigned'}: {clean_line(a['action'])}"
                for a in actions[:4]
            )
            yield Example("ethpm", "List the action items of this meeting", near, answer)


def _coverage(claim: str, text: str) -> float:
    """Share of the claim's words that the text contains."""
    words = set(terms(claim, "en"))
    return len(words & set(terms(text, "en"))) / max(1, len(words))


def _around(turns: list[tuple[str, Turn]], items: list[dict[str, Any]], max_chars: int) -> str:
    stamps = {str(item.get("timestamp", "")) for item in items}
    chosen: set[int] = set()
    for stamp in stamps:
        before = [index for index, (time, _) in enumerate(turns) if time <= stamp]
        if before:
            chosen.update(range(max(0, before[-1] - 2), min(len(turns), before[-1] + 4)))
    return render(_fit([turns[index][1] for index in sorted(chosen)], max_chars), "en")


def cmrc2018(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Answers from a paragraph; one question in six is asked of a wrong paragraph."""
    previous = ""
    for record in read_records(data_dir, "cmrc2018"):
        context = clean_line(record["context"])
        for item in record["qas"]:
            answer = item["answers"][0]["text"].strip()
            window = _window(context, answer, max_chars // 3, rng)
            prompt = rng.choice(("{}", "根据下文回答问题：{}", "请根据原文回答：{}"))
            prompt = prompt.format(item["question"])
            if previous and rng.random() < 1 / 6 and answer not in previous:
                yield Example("cmrc2018", prompt, previous, NOT_FOUND["zh"])
            elif window:
                yield Example("cmrc2018", prompt, window, answer)
        previous = context[: max_chars // 3]


def _window(context: str, answer: str, size: int, rng: random.Random) -> str:
    at = context.find(answer)
    if at < 0 or len(answer) > size // 2:
        return ""
    low = max(0, at + len(answer) - size)
    start = rng.randint(low, at) if len(context) > size else 0
    cut = max(context.rfind(mark, 0, start) for mark in "。！？；") + 1
    start = cut if at + len(answer) - cut <= size else start
    return context[start : start + size]


def vcsum(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """A summary rewritten as points, sentence by sentence, as the set holds no transcripts."""
    for record in read_records(data_dir, "vcsum"):
        summary = clean_line(record["summary"])[: max_chars // 3]
        parts = [part.strip() for part in re.split(r"[。；]", summary) if len(part.strip()) > 6]
        if len(parts) > 1:
            prompt = rng.choice(("请把下面的内容改写成要点", "请将这段总结改写为列表"))
            yield Example("vcsum", prompt, summary, "\n".join(f"- {part}。" for part in parts))


def intents(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Intent names of single utterances."""
    for name, key in (("clinc150", "intent"), ("banking77", "category")):
        for record in read_records(data_dir, name):
            text = record["text"].strip()[:max_chars]
            label = str(record[key]).replace("_", " ")
            yield Example(name, rng.choice(_ASK_INTENT), text, label)


def dialogues(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """User goals of service dialogues as speaker-attributed requests."""
    for record in read_records(data_dir, "sgd"):
        turns = [Turn(t["speaker"].title(), t["text"]) for t in record["turns"]]
        goals = list(
            dict.fromkeys(intent for t in record["turns"] for intent in t.get("intent", []))
        )
        if goals and sum(len(t.text) for t in turns) <= max_chars:
            readable = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", goal).lower() for goal in goals]
            text = render(rename(turns, "en", rng), "en")
            yield Example("sgd", "What does the customer want?", text, ", ".join(readable))


def chat(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Short exchanges in Chinese and English."""
    for record in read_records(data_dir, "chatterbot"):
        turns = record["turns"]
        if record["lang"] in ("chinese", "english") and len(turns) >= 2:
            answer = clean_line(turns[1])
            if answer and len(turns[0]) + len(answer) <= max_chars:
                yield Example("chatterbot", clean_line(turns[0]), "", answer)
    for record in read_records(data_dir, "taskmaster4"):
        turns = [t["text"] for t in record["turns"]]
        if len(turns) >= 2 and rng.random() < 0.2:
            yield Example("taskmaster4", clean_line(turns[0]), "", clean_line(turns[1]))


Reader = Callable[[Path, int, random.Random], Iterator[Example]]

READERS: tuple[tuple[Reader, float], ...] = (
    (qmsum, 3.0),
    (crd3, 1.0),
    (mtsdialog, 1.0),
    (acibench, 0.3),
    (primock57, 0.5),
    (ethpm, 3.0),
    (cmrc2018, 3.0),
    (crosswoz, 1.0),
    (friendsqa, 1.0),
    (vcsum, 0.5),
    (intents, 30.0),
    (dialogues, 0.5),
    (chat, 0.5),
)
