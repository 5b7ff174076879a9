"""The one way out of the device: what a message carries is cut down to what the policy lets pass.

Fails closed: whatever goes wrong before the payload is complete and its audit line is on the disk
is a PrivacyError or a StorageError, and there is no payload.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from autoglm.errors import AutoGLMError, PrivacyError
from autoglm.privacy.audit import AuditLog, Egress
from autoglm.privacy.key_file import create_secret, key_for
from autoglm.privacy.location import Place, PlaceBudget, blur, geohash
from autoglm.privacy.placeholders import Placeholders, taken_names
from autoglm.privacy.policy import DataClass, Form, Policy, Where, load_policy
from autoglm.privacy.pseudonym import pseudonym
from autoglm.privacy.screen import Finder, Screen

Value = str | int | float | bool | bytes | None | Place | Sequence["Value"] | Mapping[str, "Value"]

_MOST_DEPTH = 32
_SHORT = 32


class Departure(NamedTuple):
    """What leaves, and what of it was replaced; `restore` puts that back in the answer."""

    payload: dict[str, Value]
    removed: dict[str, int]
    dropped: tuple[str, ...]
    placeholders: Placeholders

    def restore(self, text: str) -> str:
        """An answer with the values that its placeholders stand for."""
        return self.placeholders.restore(text)


class BoundaryPaths(NamedTuple):
    """Where the boundary keeps its secret and its log."""

    secret: Path
    log: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> BoundaryPaths:
        """The usual places of the user."""
        home = Path(environ.get("HOME", "/"))
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "autoglm"
        state = Path(environ.get("XDG_STATE_HOME") or home / ".local/state") / "autoglm"
        return cls(config / "keys" / "privacy.key", state / "egress.log")


class Boundary:
    """Applies one policy. Safe to use from several threads and processes."""

    def __init__(
        self,
        policy: Policy,
        finder: Finder,
        secret: bytes,
        log: AuditLog | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without a `log` the boundary only shows what would leave."""
        self._policy = policy
        self._screen = Screen(finder)
        self._log = log
        self._clock = clock
        self._identifier_key = key_for(secret, "identifiers")
        self._location_key = key_for(secret, "location")
        self._places = PlaceBudget(policy.places_per_day, clock)

    @classmethod
    def open(cls, paths: BoundaryPaths, *, policy: Path | None = None) -> Boundary:
        """The boundary of this device, with its own secret and log. Raises PrivacyError."""
        from autoglm.privacy.pii.detect import Detector

        secret = create_secret(paths.secret)
        log = AuditLog(paths.log, key_for(secret, "audit"))
        return cls(load_policy(policy), Detector(), secret, log)

    def leave(
        self,
        message: str,
        fields: Mapping[str, Value],
        *,
        placeholders: Placeholders | None = None,
    ) -> Departure:
        """What of `fields` may leave in a message; give the same `placeholders` to a conversation.

        Raises PrivacyError when nothing may leave, StorageError when the log cannot be written.
        """
        outgoing = _Outgoing(self, placeholders or Placeholders())
        dropped: list[str] = []
        decision = "refused"
        try:
            for field, value in fields.items():
                data_class = self._policy.field_class(message, field)
                if data_class is None:
                    dropped.append(field)
                else:
                    outgoing.add(field, value, data_class)
            decision = "sent"
        except AutoGLMError:
            raise
        except Exception as err:
            text = f"the privacy filter failed ({type(err).__name__}); nothing was sent"
            raise PrivacyError(text) from None
        finally:
            self._note(message, decision, outgoing, len(dropped))
        return Departure(
            outgoing.payload, dict(outgoing.removed), tuple(dropped), outgoing.placeholders
        )

    def _note(self, message: str, decision: str, outgoing: _Outgoing, num_dropped: int) -> None:
        if self._log is None:
            return
        num_bytes = _size(outgoing.payload) if decision == "sent" else 0
        name = message if message in self._policy.messages else "unknown"
        egress = Egress(
            name, decision, outgoing.forms, num_dropped, dict(outgoing.removed), num_bytes
        )
        self._log.append(egress, time_s=self._clock())

    def screened(self, text: str, placeholders: Placeholders, removed: Counter[str]) -> str:
        """A text with what was found in it replaced as the policy says."""
        found = [
            (finding, self._policy.classes[finding.kind]) for finding in self._screen.find(text)
        ]
        for finding, data_class in found:
            if data_class.where is Where.NEVER:
                message = f"a text holds data of class {finding.kind}, which may not leave"
                raise PrivacyError(message)
        taken = taken_names(text)
        pieces, last = [], 0
        for finding, data_class in found:
            if data_class.form is Form.PLAIN:
                continue
            value = text[finding.start : finding.end]
            if data_class.form is Form.HASH:
                told = f"[{pseudonym(self._identifier_key, finding.kind, value)}]"
            else:
                told = placeholders.name(finding.kind, value, taken)
            pieces += [text[last : finding.start], told]
            last = finding.end
            removed[finding.kind.value] += 1
        return "".join([*pieces, text[last:]])

    def place(self, value: Value) -> str:
        """The geohash that is told instead of a place."""
        if not isinstance(value, Place):
            message = f"a location is of type {type(value).__name__}; expected a Place"
            raise PrivacyError(message)
        self._places.spend(value)
        told = blur(self._location_key, value, self._policy.noise_metres)
        return geohash(told, self._policy.geohash_characters)

    def identifier(self, name: str, value: Value) -> str:
        """The keyed hash of an identifier."""
        return pseudonym(self._identifier_key, name, str(value))


class _Outgoing:
    """A payload in the making."""

    def __init__(self, boundary: Boundary, placeholders: Placeholders) -> None:
        self._boundary = boundary
        self.placeholders = placeholders
        self.payload: dict[str, Value] = {}
        self.forms: dict[str, str] = {}
        self.removed: Counter[str] = Counter()
        self._short_texts: dict[str, str] = {}

    def add(self, field: str, value: Value, data_class: DataClass) -> None:
        """Add a field in the form of its class. Raises PrivacyError."""
        if data_class.where is Where.NEVER:
            message = f"field {field} is of class {data_class.name}, which may not leave"
            raise PrivacyError(message)
        self.payload[field] = self._formed(value, data_class)
        self.forms[field] = data_class.form.value

    def _formed(self, value: Value, data_class: DataClass) -> Value:
        match data_class.form:
            case Form.PLAIN:
                return value
            case Form.SCREENED:
                return self._walk(value, 0)
            case Form.HASH:
                return self._boundary.identifier(data_class.name, value)
            case Form.COARSE:
                return self._boundary.place(value)
            case Form.PLACEHOLDER:
                return f"[{data_class.name.upper()}]"

    def _walk(self, value: Value, depth: int) -> Value:
        if depth > _MOST_DEPTH:
            message = f"a field is nested more than {_MOST_DEPTH} deep"
            raise PrivacyError(message)
        if isinstance(value, str):
            return self._screened(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            # A number may be a telephone number; a text of it is screened, and must come out whole.
            if self._screened(str(value)) != str(value):
                message = "a number in a text field looks like personal data"
                raise PrivacyError(message)
            return value
        if isinstance(value, Mapping):
            return {
                str(self._walk(str(key), depth + 1)): self._walk(each, depth + 1)
                for key, each in value.items()
            }
        if not isinstance(value, bytes | Place) and isinstance(value, Sequence):
            return [self._walk(each, depth + 1) for each in value]
        message = f"a text field holds a value of type {type(value).__name__}"
        raise PrivacyError(message)

    def _screened(self, text: str) -> str:
        # Roles and keys of turns come again and again.
        told = self._short_texts.get(text)
        if told is None:
            told = self._boundary.screened(text, self.placeholders, self.removed)
            if len(text) <= _SHORT:
                self._short_texts[text] = told
        return told


def _size(payload: Mapping[str, Value]) -> int:
    return len(json.dumps(payload, ensure_ascii=False, default=bytes.hex))
