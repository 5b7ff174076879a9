"""Building blocks of invented business meetings, read from `scenes.json`.

A scene is a few turns that settle one matter, with its summary point and, where it has them, its
action item and a question with the answer. In all texts `|` separates alternatives and braces are
slots: `{a}`, `{b}` and `{chair}` are speakers, the others come from `Phrases.slots`.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from autoglm.lite.sources import Lang


@dataclass(frozen=True, slots=True)
class Scene:
    """Turns as (speaker slot, words), the point they make, and what can be asked about them."""

    turns: tuple[tuple[str, str], ...]
    point: str
    action: tuple[str, str, str] | None  # owner, task, due
    question: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Phrases:
    """Everything a language needs to invent people and meetings."""

    names: Mapping[str, str]
    slots: Mapping[str, str]
    scenes: tuple[Scene, ...]
    openings: str
    small_talk: str
    closings: str


@functools.cache
def phrases(lang: Lang) -> Phrases:
    """The phrases of a language."""
    resource = resources.files("autoglm.lite").joinpath("scenes.json")
    raw = json.loads(resource.read_text(encoding="utf-8"))[lang]
    scenes = tuple(
        Scene(
            turns=tuple((role, words) for role, words in scene["turns"]),
            point=scene["point"],
            action=tuple(scene["action"]) if "action" in scene else None,
            question=tuple(scene["question"]) if "question" in scene else None,
        )
        for scene in raw["scenes"]
    )
    return Phrases(
        raw["names"], raw["slots"], scenes, raw["openings"], raw["small_talk"], raw["closings"]
    )
