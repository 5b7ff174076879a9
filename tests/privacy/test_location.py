"""Places are blurred as the paper says, always the same way, and within a budget."""

import math
import random

import pytest

from autoglm.errors import PrivacyError
from autoglm.privacy.location import Place, PlaceBudget, blur, geohash, noise

KEY = bytes(32)
MEAN = 2000.0


def test_geohash_of_a_known_place():
    # https://en.wikipedia.org/wiki/Geohash
    assert geohash(Place(57.64911, 10.40744), 11) == "u4pruydqqvj"


def test_same_place_is_told_the_same():
    place = Place(31.2304, 121.4737)
    assert blur(KEY, place, MEAN) == blur(KEY, place, MEAN)
    assert blur(bytes(31) + b"1", place, MEAN) != blur(KEY, place, MEAN)


def kolmogorov_p(samples: list[float], distribution) -> float:
    """The p-value of the one-sample Kolmogorov-Smirnov test, by its asymptotic series."""
    number = len(samples)
    distance = max(
        max((place + 1) / number - distribution(x), distribution(x) - place / number)
        for place, x in enumerate(sorted(samples))
    )
    scaled = (math.sqrt(number) + 0.12 + 0.11 / math.sqrt(number)) * distance
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled**2) for k in range(1, 101))


def moves() -> list[tuple[float, float]]:
    chance = random.Random(5)
    places = (Place(chance.uniform(-60, 60), chance.uniform(-180, 180)) for _ in range(5000))
    return [noise(KEY, place, MEAN) for place in places]


def test_distances_and_directions_have_the_distribution_of_planar_laplace():
    rate = 2 / MEAN
    distances = [math.hypot(*move) for move in moves()]
    angles = [math.atan2(east, north) for north, east in moves()]
    by_distance = kolmogorov_p(distances, lambda r: 1 - (1 + rate * r) * math.exp(-rate * r))
    by_angle = kolmogorov_p(angles, lambda angle: (angle + math.pi) / (2 * math.pi))
    control = kolmogorov_p(distances, lambda r: 1 - math.exp(-r / MEAN))
    assert (by_distance > 0.01, by_angle > 0.01, control < 0.01) == (True, True, True)


def test_blurred_place_is_at_the_distance_of_its_noise():
    place = Place(39.9, 116.4)
    told = blur(KEY, place, MEAN)
    north = (told.latitude - place.latitude) * 111_320
    east = (told.longitude - place.longitude) * 111_320 * math.cos(math.radians(39.9))
    assert math.hypot(north, east) == pytest.approx(math.hypot(*noise(KEY, place, MEAN)), rel=1e-6)


def test_places_near_pole_and_date_line_stay_on_the_globe():
    for place in (Place(89.99, 0), Place(-90, 10), Place(0, 179.999), Place(0, -180)):
        told = blur(KEY, place, 50_000)
        assert -90 <= told.latitude <= 90
        assert -180 <= told.longitude <= 180


def test_budget_counts_places_and_not_questions():
    time_s = [0.0]
    budget = PlaceBudget(2, lambda: time_s[0])
    for _ in range(5):
        budget.spend(Place(1, 1))
    budget.spend(Place(2, 2))
    with pytest.raises(PrivacyError):
        budget.spend(Place(3, 3))
    budget.spend(Place(1, 1))
    time_s[0] = 86_400.0
    budget.spend(Place(3, 3))
