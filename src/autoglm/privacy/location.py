"""Places made coarse: planar Laplace noise (Andres et al., CCS 2013), then a short geohash.

The same place always gets the same noise, so that asking again tells nothing new; different places
cost a budget, and when it is spent no place is told.
"""

from __future__ import annotations

import hmac
import math
import threading
from collections.abc import Callable
from typing import NamedTuple

from autoglm.errors import PrivacyError

_BASE32 = "0123456789bcdefghjkmnpqrstuvwxyz"
_METRES_PER_DEGREE = 111_320.0
# Two places within one such cell, of about 5 m, are the same place.
_SAME_PLACE_CHARACTERS = 9
_SECONDS_PER_DAY = 86_400


class Place(NamedTuple):
    """Degrees north and east."""

    latitude: float
    longitude: float


def geohash(place: Place, characters: int) -> str:
    """The geohash of a place: 5 characters are a cell of 5 km, 6 of 1 km, 7 of 150 m."""
    low_lat, high_lat, low_lon, high_lon = -90.0, 90.0, -180.0, 180.0
    bits, result = 0, ""
    for step in range(5 * characters):
        bits <<= 1
        if step % 2 == 0:
            middle = (low_lon + high_lon) / 2
            if place.longitude >= middle:
                bits, low_lon = bits | 1, middle
            else:
                high_lon = middle
        else:
            middle = (low_lat + high_lat) / 2
            if place.latitude >= middle:
                bits, low_lat = bits | 1, middle
            else:
                high_lat = middle
        if step % 5 == 4:
            result, bits = result + _BASE32[bits], 0
    return result


def noise(key: bytes, place: Place, mean_metres: float) -> tuple[float, float]:
    """Metres north and east by which a place is moved, always the same for it.

    The direction is uniform and the distance has the density e^2 r exp(-e r), whose mean is 2 / e.
    """
    cell = geohash(place, _SAME_PLACE_CHARACTERS)
    digest = hmac.digest(key, cell.encode(), "sha256")
    draws = [(int.from_bytes(digest[i : i + 8], "big") + 1) / 2**64 for i in (0, 8, 16)]
    distance = -math.log(draws[0] * draws[1]) * mean_metres / 2
    angle = 2 * math.pi * draws[2]
    return distance * math.cos(angle), distance * math.sin(angle)


def blur(key: bytes, place: Place, mean_metres: float) -> Place:
    """The place that is told instead of a true one."""
    north, east = noise(key, place, mean_metres)
    latitude = max(-90.0, min(90.0, place.latitude + north / _METRES_PER_DEGREE))
    shrink = max(0.01, math.cos(math.radians(place.latitude)))
    longitude = place.longitude + east / (_METRES_PER_DEGREE * shrink)
    return Place(latitude, (longitude + 180.0) % 360.0 - 180.0)


class PlaceBudget:
    """How many different places may be told a day."""

    def __init__(self, places_per_day: int, clock: Callable[[], float]) -> None:
        self._limit = places_per_day
        self._clock = clock
        self._day = -1
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def spend(self, place: Place) -> None:
        """Count a place unless it was told today. Raises PrivacyError when the budget is spent."""
        day = int(self._clock() // _SECONDS_PER_DAY)
        cell = geohash(place, _SAME_PLACE_CHARACTERS)
        with self._lock:
            if day != self._day:
                self._day, self._told = day, set()
            if cell not in self._told and len(self._told) >= self._limit:
                message = f"{self._limit} places were told today; the policy allows no further one"
                raise PrivacyError(message)
            self._told.add(cell)
