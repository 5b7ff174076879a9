"""Synthetic instruction data over real meeting text: the answer is always found in the text.

Targets are extractive on purpose. A model of this size with little training can learn to select
and attribute; it cannot learn to paraphrase without inventing.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoglm.lite.salience import Salience, compress, sentences
from autoglm.lite.sources import Lang
from autoglm.lite.transcripts import Turn, render

NOT_FOUND = {"zh": "原文没有提到。", "en": "The text does not say."}

SUMMARY_PROMPTS = {
    "zh": (
        "请总结以下会议记录要点",
        "请总结以下会议记录要点",
        "请总结以下会议记录要点。",
        "总结会议要点",
        "请概括以下会议的主要内容",
        "把下面的会议记录总结成要点",
        "请列出这次会议的要点",
        "请总结以下内容的要点",
        "会议纪要：请列出要点",
        "请用要点总结这段对话",
    ),
    "en": (
        "Summarize the key points of this meeting",
        "Summarize the key points of this meeting.",
        "Summarize the following meeting",
        "Summarise the key points of this meeting",
        "List the key points of the discussion below",
        "What are the main points of this meeting?",
        "Please summarize this conversation in bullet points",
        "Summarize the key points",
    ),
}
_LIMIT = {"zh": 46, "en": 150}
_SHORTEST = {"zh": 8, "en": 25}


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange: what the user asks, about which text, and the wanted answer."""

    source: str
    instruction: str
    text: str
    answer: str
    separator: str = "\n\n"

    @property
    def user_message(self) -> str:
        """Instruction and text as the product sends them, a line feed or two between them."""
        return f"{self.instruction}{self.separator}{self.text}" if self.text else self.instruction


@dataclass(frozen=True, slots=True)
class _Point:
    turn: int
    speaker: str
    sentence: str
    score: float


def _points(turns: Sequence[Turn], salience: Salience) -> list[_Point]:
    lang = salience.lang
    found = [
        (index, turn.speaker, sentence)
        for index, turn in enumerate(turns)
        for sentence in sentences(turn.text, lang)
        if len(compress(sentence, lang, _LIMIT[lang])) >= _SHORTEST[lang]
    ]
    scores = salience.scores([sentence for _, _, sentence in found])
    return [_Point(*item, score) for item, score in zip(found, scores, strict=True)]


def attribute(speaker: str, sentence: str, lang: Lang) -> str:
    """The compressed sentence as reported speech of `speaker`, one line of a summary."""
    words = compress(sentence, lang, _LIMIT[lang])
    if lang == "zh":
        for start in ("我建议", "建议"):
            if words.startswith(start):
                return f"{speaker}建议{words.removeprefix(start).lstrip('，：')}。"
        for start in ("我认为", "我觉得", "我想"):
            if words.startswith(start):
                return f"{speaker}认为{words.removeprefix(start).lstrip('，：')}。"
        if sentence.rstrip("」”").endswith(("？", "?")):
            return f"{speaker}询问：{words.rstrip('？?')}？"
        return f"{speaker}表示，{words}。"
    if sentence.rstrip('"”').endswith("?"):
        return f"{speaker} asked: {words.rstrip('?')}?"
    return f"{speaker} said: {words[:1].upper()}{words[1:]}."


def _best(points: Sequence[_Point], count: int, per_turn: int = 1) -> list[_Point]:
    chosen: list[_Point] = []
    for point in sorted(points, key=lambda item: -item.score):
        if sum(other.turn == point.turn for other in chosen) < per_turn:
            chosen.append(point)
        if len(chosen) == count:
            break
    order = {id(point): index for index, point in enumerate(points)}
    return sorted(chosen, key=lambda item: order[id(item)])


def _bullets(points: Sequence[_Point], lang: Lang) -> str:
    return "\n".join(f"- {attribute(p.speaker, p.sentence, lang)}" for p in points)


def key_points(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """The salient sentences as a bulleted list, one to a turn, two to five in all."""
    points = _points(turns, salience)
    size = sum(len(turn.text) for turn in turns)
    per_point = 130 if salience.lang == "zh" else 350
    chosen = _best(points, max(2, min(5, 1 + size // per_point)))
    if len(chosen) < 2:
        return None
    instruction = rng.choice(SUMMARY_PROMPTS[salience.lang])
    text = render(turns, salience.lang)
    return Example("key_points", instruction, text, _bullets(chosen, salience.lang))


def merge_points(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """A list of partial points shortened to the most salient: the last step of split-and-merge."""
    lang = salience.lang
    points = _best(_points(turns, salience), 8)
    if len(points) < 5:
        return None
    kept = _best(points, len(points) // 2)
    prompts = {
        "zh": (*SUMMARY_PROMPTS["zh"][:2], "请把以下要点合并成一份简短的总结"),
        "en": (*SUMMARY_PROMPTS["en"][:2], "Merge these points into one short summary"),
    }
    return Example(
        "merge_points", rng.choice(prompts[lang]), _bullets(points, lang), _bullets(kept, lang)
    )


def speaker_points(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """What one speaker said, or that a named person does not occur."""
    lang = salience.lang
    points = _points(turns, salience)
    if not points:
        return None
    speaker = rng.choice([point.speaker for point in points])
    chosen = _best([point for point in points if point.speaker == speaker], 3, per_turn=2)
    prompts = {
        "zh": ("{}说了什么？", "请总结{}的发言", "{}的主要观点是什么？", "{}提到了哪些内容？"),
        "en": ("What did {} say?", "Summarize what {} said", "What are the main points of {}?"),
    }
    instruction = rng.choice(prompts[lang]).format(speaker)
    return Example("speaker_points", instruction, render(turns, lang), _bullets(chosen, lang))


def who_said(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """The speaker of a quoted phrase."""
    lang = salience.lang
    points = _points(turns, salience)
    if not points:
        return None
    point = rng.choice(points)
    quote = compress(point.sentence, lang, 20 if lang == "zh" else 60)
    prompts = {
        "zh": ("谁提到了“{}”？", "是谁说的“{}”？", "“{}”是谁的发言？"),
        "en": ('Who said "{}"?', 'Who mentioned "{}"?'),
    }
    return Example(
        "who_said", rng.choice(prompts[lang]).format(quote), render(turns, lang), point.speaker
    )


def speakers(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """The list of participants, in order of appearance."""
    lang = salience.lang
    names = list(dict.fromkeys(turn.speaker for turn in turns))
    prompts = {
        "zh": ("参会人员有谁？", "请列出所有发言人", "这次会议有哪些人发言？"),
        "en": ("Who took part in this meeting?", "List the speakers", "Who spoke in this meeting?"),
    }
    separator = "、" if lang == "zh" else ", "
    return Example(
        "speakers", rng.choice(prompts[lang]), render(turns, lang), separator.join(names)
    )


_ACTION = {
    "zh": ("请", "负责", "会后", "下周", "下次", "尽快", "之前", "后续", "安排", "提供", "明天"),
    "en": (
        "will ",
        "need to ",
        "please",
        "going to ",
        "by next",
        "next week",
        "let's ",
        "follow up",
    ),
}


def action_items(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """Requests and commitments with their speaker, or a plain statement that there are none."""
    lang = salience.lang
    marked = [
        point
        for point in _points(turns, salience)
        if any(cue in point.sentence.lower() for cue in _ACTION[lang])
        and not point.sentence.endswith(("？", "?"))
    ]
    prompts = {
        "zh": ("请列出会议中的待办事项", "有哪些待办事项？", "请提取行动项和负责人"),
        "en": (
            "List the action items of this meeting",
            "What are the action items?",
            "Extract the action items and their owners",
        ),
    }
    mark = "：" if lang == "zh" else ": "
    none = {"zh": "没有明确的待办事项。", "en": "There are no clear action items."}
    lines = [
        f"- {point.speaker}{mark}{compress(point.sentence, lang, _LIMIT[lang])}"
        for point in _best(marked, 4)
    ]
    return Example(
        "action_items",
        rng.choice(prompts[lang]),
        render(turns, lang),
        "\n".join(lines) or none[lang],
    )


def find_sentence(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """The sentence that continues or contains a given phrase, copied exactly; or not found."""
    lang = salience.lang
    points = _points(turns, salience)
    if len(points) < 2:
        return None
    point = rng.choice(points)
    sentence = point.sentence[:160]
    width = 6 if lang == "zh" else 24
    start = rng.randrange(max(1, len(sentence) - width))
    phrase = sentence[start : start + width].strip()
    prompts = {
        "zh": ("原文中包含“{}”的是哪一句？", "请找出提到“{}”的句子", "关于“{}”，原文怎么说？"),
        "en": ('Which sentence contains "{}"?', 'Find the sentence that mentions "{}"'),
    }
    text = render(turns, lang)
    answer = sentence
    if rng.random() < 0.2:
        rest = [turn for turn in turns if phrase not in turn.text]
        if len(rest) >= 2:
            text, answer = render(rest, lang), NOT_FOUND[lang]
    return Example("find_sentence", rng.choice(prompts[lang]).format(phrase), text, answer)


Builder = Callable[[Sequence[Turn], Salience, random.Random], Example | None]

MEETING_TASKS: tuple[tuple[Builder, float], ...] = (
    (key_points, 0.44),
    (speaker_points, 0.12),
    (find_sentence, 0.12),
    (who_said, 0.10),
    (speakers, 0.06),
    (action_items, 0.10),
    (merge_points, 0.06),
)


def build(turns: Sequence[Turn], salience: Salience, rng: random.Random) -> Example | None:
    """A random task over one chunk of a meeting."""
    builders, weights = zip(*MEETING_TASKS, strict=True)
    builder: Builder = rng.choices(builders, weights)[0]
    return builder(turns, salience, rng)
