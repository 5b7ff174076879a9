"""Texts as versions: each is a difference to what its author saw, siblings are merged when read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autoglm.protocol.v1.entry_pb2 import Edit, Entry
from autoglm.sync.text import diff, merge, splice, tokens, union
from autoglm.sync.version import Context, Dot, Version, context_of

# A text built on more differences than this comes with its base.
MAX_DEPTH = 32
# Replacements up to this length are not searched for parts that stayed.
SHORT_CHARS = 64

Bases = Mapping[Dot, Version]


@dataclass(frozen=True, slots=True)
class _Known:
    """A text and what its author had seen when it was the text."""

    context: Context
    text: str


def edit_of(version: Version) -> Edit:
    """The difference in a version's payload."""
    return Entry.FromString(version.payload).edit


def make_edit(base: str, text: str) -> Edit:
    """The difference from `base` to `text`."""
    start, removed, inserted = splice(base, text)
    if not removed and not inserted:
        return Edit()
    if min(removed, len(inserted)) <= SHORT_CHARS:
        return Edit(starts=[start], removed=[removed], inserted=[inserted])
    old = tokens(base[start : start + removed])
    ends = [start]
    for token in old:
        ends.append(ends[-1] + len(token))
    edit = Edit()
    for hunk in diff(old, tokens(inserted)):
        edit.starts.append(ends[hunk.start])
        edit.removed.append(ends[hunk.end] - ends[hunk.start])
        edit.inserted.append("".join(hunk.new))
    return edit


def apply_edit(base: str, edit: Edit) -> str:
    """The text that a difference makes of its base."""
    parts: list[str] = []
    position = 0
    for start, removed, inserted in zip(edit.starts, edit.removed, edit.inserted, strict=True):
        parts += (base[position:start], inserted)
        position = start + removed
    return "".join([*parts, base[position:]])


def base_text(version: Version, bases: Bases) -> str | None:
    """What the version is a difference to; None while a version in between is not here."""
    edits: list[Edit] = []
    current: Version | None = version
    while current is not None:
        edit = edit_of(current)
        if current.needs is None:
            text = edit.base
            for later in reversed(edits):
                text = apply_edit(text, later)
            return text
        current = bases.get(current.needs)
        if current is not None:
            edits.append(edit_of(current))
    return None


def text_of(version: Version, bases: Bases) -> str | None:
    """The text of one version."""
    base = base_text(version, bases)
    return None if base is None else apply_edit(base, edit_of(version))


def _history(version: Version, bases: Bases) -> Iterator[_Known]:
    """The texts that the version is built on, the latest first."""
    current: Version | None = version
    while current is not None:
        base = base_text(current, bases)
        if base is None:
            return
        yield _Known(current.context, base)
        current = None if current.needs is None else bases.get(current.needs)


def _within(inner: Context, outer: Context) -> bool:
    known = dict(outer)
    return all(known.get(actor, 0) >= counter for actor, counter in inner)


def merged(siblings: Sequence[Version], bases: Bases) -> str | None:
    """One text of all siblings; the same on every device. None if there is none to be read."""
    written = [version for version in siblings if not version.is_tombstone]
    texts = [(version, text_of(version, bases)) for version in written]
    readable = [(version, text) for version, text in texts if text is not None]
    if not readable:
        return None
    (first, result), *rest = readable
    seen = [first]
    for version, text in rest:
        base = _common_base(version, seen, bases)
        result = union(result, text) if base is None else merge(base, result, text)
        seen.append(version)
    return result


def _common_base(version: Version, others: Sequence[Version], bases: Bases) -> str | None:
    """The latest text that both sides are known to be built on."""
    all_seen = context_of(others)
    for known in _history(version, bases):
        if _within(known.context, all_seen):
            return known.text
    seen = context_of([version])
    for other in others:
        for known in _history(other, bases):
            if _within(known.context, seen):
                return known.text
    return None


def inlined(version: Version, bases: Bases) -> Version:
    """The same version with its base in its payload."""
    base = base_text(version, bases)
    if base is None:
        return version
    entry = Entry.FromString(version.payload)
    entry.edit.base = base
    entry.edit.depth = 0
    return replace(version, payload=entry.SerializeToString(), needs=None)
