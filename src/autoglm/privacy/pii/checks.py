"""Check digits: ISO/IEC 7812 (Luhn), GB 11643 (Chinese identity numbers), ISO 13616 (IBAN)."""

from __future__ import annotations

import datetime

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
# Of GB/T 2260.
_PROVINCES = frozenset(
    number
    for first, last in (
        (11, 15),
        (21, 23),
        (31, 37),
        (41, 46),
        (50, 54),
        (61, 65),
        (71, 71),
        (81, 83),
    )
    for number in range(first, last + 1)
)


def is_luhn(digits: str) -> bool:
    """Whether the last digit of a card's number fits the others."""
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])) % 10 == 0


def is_cn_id(number: str) -> bool:
    """Whether 18 characters are an identity number: region, date of birth and check character."""
    if int(number[:2]) not in _PROVINCES or not _is_date(number[6:14]):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], _ID_WEIGHTS, strict=True))
    return _ID_CHECKS[total % 11] == number[17].upper()


def is_old_cn_id(number: str) -> bool:
    """Whether 15 digits can be an identity number from before 1999, which has no check digit."""
    return int(number[:2]) in _PROVINCES and _is_date("19" + number[6:12])


def is_iban(number: str) -> bool:
    """Whether an account number without spaces has the right check digits."""
    moved = number[4:] + number[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _is_date(digits: str) -> bool:
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:])
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return 1850 <= year <= 2100
