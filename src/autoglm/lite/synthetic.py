"""Invented business meetings with exact summaries, action items and answers.

Real transcripts give the language; these give targets that are known to be right: who does what
by when, what was decided, which number was named, and what the meeting does not say.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from autoglm.lite.scenes import Scene, phrases
from autoglm.lite.sources import Lang
from autoglm.lite.tasks import NOT_FOUND, SUMMARY_PROMPTS, Example
from autoglm.lite.transcripts import Turn, random_name, render

_SLOT = re.compile(r"\{(\w+)\}")
_ACTION_PROMPTS = {
    "zh": ("请列出会议中的待办事项", "有哪些待办事项？", "请提取行动项和负责人"),
    "en": (
        "List the action items of this meeting",
        "What are the action items?",
        "Extract the action items and their owners",
    ),
}
_JSON_PROMPTS = {
    "zh": ("请以JSON格式提取待办事项，字段为owner、task、due",),
    "en": ("Extract the action items as JSON with owner, task and due",),
}
_NO_ACTIONS = {"zh": "没有明确的待办事项。", "en": "There are no clear action items."}


@dataclass(frozen=True, slots=True)
class Settled:
    """One scene with its slots filled."""

    turns: list[Turn]
    point: str
    action: tuple[str, str, str] | None
    question: tuple[str, str] | None


class _Filler:
    """Fills slots consistently within one scene."""

    def __init__(self, lang: Lang, people: dict[str, str], rng: random.Random) -> None:
        self._lang: Lang = lang
        self._rng = rng
        self._values = dict(people)

    def fill(self, pattern: str) -> str:
        text = self._rng.choice(pattern.split("|"))
        while _SLOT.search(text):
            text = _SLOT.sub(lambda match: self._value(match[1]), text)
        return text[:1].upper() + text[1:] if self._lang == "en" else text

    def _value(self, slot: str) -> str:
        if slot not in self._values:
            self._values[slot] = self._invent(slot)
        return self._values[slot]

    def _invent(self, slot: str) -> str:
        rng, bank = self._rng, phrases(self._lang).slots
        ranges = {"m": (1, 12), "d": (1, 28), "n": (5, 300), "k": (1, 90), "p": (2, 95)}
        if slot in ranges:
            return str(rng.randint(*ranges[slot]))
        if slot == "task":
            gap = " " if self._lang == "en" else ""
            return (
                f"{rng.choice(bank['verb'].split('|'))}{gap}{rng.choice(bank['object'].split('|'))}"
            )
        base = slot.rstrip("2")
        sibling = self._values.get(base if slot != base else f"{base}2")
        choice = sibling
        while choice == sibling:
            # Nested slots are resolved now, so that every later use shows the same value.
            pattern = rng.choice(bank[base].split("|"))
            choice = _SLOT.sub(lambda match: self._invent(match[1]), pattern)
        return str(choice)


def settle(scene: Scene, lang: Lang, people: list[str], rng: random.Random) -> Settled:
    """Fill a scene with two speakers and the first of `people` as chair."""
    a, b = rng.sample(people[1:], 2)
    filler = _Filler(lang, {"chair": people[0], "a": a, "b": b}, rng)
    speakers = {"chair": people[0], "a": a, "b": b}
    turns = [Turn(speakers[role], filler.fill(words)) for role, words in scene.turns]
    action = scene.action and (
        filler.fill(scene.action[0]),
        filler.fill(scene.action[1]),
        filler.fill(scene.action[2]),
    )
    question = scene.question and (filler.fill(scene.question[0]), filler.fill(scene.question[1]))
    return Settled(turns, filler.fill(scene.point), action, question)


def meeting(lang: Lang, rng: random.Random) -> tuple[list[Turn], list[Settled]]:
    """Turns of a whole meeting and what it settled, in order."""
    names: set[str] = set()
    while len(names) < rng.randint(3, 5):
        names.add(random_name(lang, rng))
    people = sorted(names)
    rng.shuffle(people)
    said = phrases(lang)
    scenes = rng.sample(said.scenes, rng.randint(2, 7))
    scenes.sort(key=lambda scene: len(scene.turns) == 1)
    settled = [settle(scene, lang, people, rng) for scene in scenes]
    filler = _Filler(lang, {}, rng)
    turns = [Turn(people[0], filler.fill(said.openings))]
    for item in settled:
        turns += item.turns
        if rng.random() < 0.45:
            turns.append(Turn(rng.choice(people), filler.fill(said.small_talk)))
    turns.append(Turn(people[0], filler.fill(said.closings)))
    return turns, settled


def _actions(settled: list[Settled], lang: Lang, rng: random.Random) -> tuple[str, str]:
    found = [item.action for item in settled if item.action]
    if rng.random() < 0.4:
        rows = [{"owner": owner, "task": task, "due": due} for owner, task, due in found]
        return rng.choice(_JSON_PROMPTS[lang]), json.dumps(rows, ensure_ascii=False)
    if lang == "zh":
        lines = [f"- {owner}：{task}（{due}）" for owner, task, due in found]
    else:
        lines = [f"- {owner}: {task} ({due})" for owner, task, due in found]
    return rng.choice(_ACTION_PROMPTS[lang]), "\n".join(lines) or _NO_ACTIONS[lang]


def _question(
    turns: list[Turn], settled: list[Settled], lang: Lang, rng: random.Random
) -> tuple[str, str, list[Turn]]:
    item = rng.choice([item for item in settled if item.question])
    if item.question is None:
        return "", "", turns
    if rng.random() < 0.25:
        gone = {id(turn) for turn in item.turns}
        return item.question[0], NOT_FOUND[lang], [turn for turn in turns if id(turn) not in gone]
    return *item.question, turns


def examples(lang: Lang, rng: random.Random) -> Iterator[Example]:
    """Endless tasks over invented meetings."""
    while True:
        turns, settled = meeting(lang, rng)
        kind = rng.random()
        if kind < 0.5:
            prompt = rng.choice(SUMMARY_PROMPTS[lang])
            answer = "\n".join(f"- {item.point}" for item in settled)
        elif kind < 0.7:
            prompt, answer = _actions(settled, lang, rng)
        else:
            prompt, answer, turns = _question(turns, settled, lang, rng)
        yield Example(f"synthetic_{lang}", prompt, render(turns, lang), answer)
