"""The kinds of personal data that are looked for, and a place in a text where one was found."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """A kind of personal data; the value names it in policies, placeholders and the audit log."""

    CN_ID = "cn_id"
    MOBILE = "mobile"
    LANDLINE = "landline"
    PHONE = "phone"
    BANK_CARD = "bank_card"
    EMAIL = "email"
    PLATE = "plate"
    PASSPORT = "passport"
    IP = "ip"
    SSN = "ssn"
    IBAN = "iban"
    ADDRESS = "address"
    PERSON = "person"
    ORGANISATION = "organisation"


class Finding(NamedTuple):
    """Characters `start` to `end` of a text are of this kind."""

    start: int
    end: int
    kind: Kind
