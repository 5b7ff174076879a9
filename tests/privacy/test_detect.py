"""What the detectors find in every spelling, what they leave alone, and that no text stops them."""

import time

import pii_corpus
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm.privacy.pii.checks import is_cn_id, is_iban, is_luhn
from autoglm.privacy.pii.detect import Detector, merge
from autoglm.privacy.pii.fold import fold
from autoglm.privacy.pii.kinds import Finding, Kind


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def found(detector, text) -> list[tuple[str, str]]:
    return [(each.kind.value, text[each.start : each.end]) for each in detector.find(text)]


@pytest.mark.parametrize("kind", pii_corpus.STRUCTURED)
def test_structured_data_is_found_in_every_spelling(detector, kind):
    num_found = num_false = num_labels = 0
    for text in pii_corpus.structured(250, kind, seed=5):
        findings = [each for each in detector.find(text.text) if each.kind is kind]
        for label in text.labels:
            num_labels += 1
            num_found += any(f.start <= label.start and f.end >= label.end for f in findings)
        num_false += 0 if text.labels else len(findings)
    assert num_found >= 0.99 * num_labels
    assert num_false <= 0.05 * num_labels


def test_names_and_addresses_are_covered(detector):
    num_found = num_labels = 0
    for text in pii_corpus.named(400, seed=5):
        covered = {
            place for each in detector.find(text.text) for place in range(each.start, each.end)
        }
        for label in text.labels:
            num_labels += 1
            num_found += covered.issuperset(range(label.start, label.end))
    assert num_found >= 0.9 * num_labels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("电话 010-62345678 转 801", [("landline", "010-62345678")]),
        ("热线400-800-1234", [("landline", "400-800-1234")]),
        ("call +44 20 7946 0958 now", [("phone", "+44 20 7946 0958")]),
        ("Phone: 751-954-9268", [("phone", "751-954-9268")]),
        ("护照号E12345678。", [("passport", "E12345678")]),
        ("ping 192.168.1.254 ok", [("ip", "192.168.1.254")]),
        ("host 2001:db8::8a2e:370:7334 up", [("ip", "2001:db8::8a2e:370:7334")]),
        ("IBAN GB29 NWBK 6016 1331 9268 19", [("iban", "GB29 NWBK 6016 1331 9268 19")]),
        ("SSN 308-63-0237.", [("ssn", "308-63-0237")]),
        ("write to zhang.san [at] qq.com", [("email", "zhang.san [at] qq.com")]),
        ("老身份证110101900307109有效", [("cn_id", "110101900307109")]),
    ],
)
def test_other_kinds_are_found(detector, text, expected):
    assert found(detector, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4 of the driver",
        "订单号 20261123000017，共 3 件。",
        "sha 550e8400-e29b-41d4-a716-446655440000",
        "The meeting is on Monday at 10:30 in the large room.",
        "三千五百六十七人参加了活动。",
        "std::vector<int> and a::b::c",
        "圆周率约为3.14159265358979",
        "我们周五之前完成时间安排和项目管理的方案。",
    ],
)
def test_harmless_text_is_left_alone(detector, text):
    assert found(detector, text) == []


def test_offsets_lead_back_to_the_original(detector):
    card = "6222".translate(pii_corpus.FULL_WIDTH) + " 0212\u200d 3456 7890 128"
    text = f"卡\u200b号{card}，\ufeff完"
    assert found(detector, text) == [("bank_card", card)]


def test_number_inside_a_longer_one_is_not_found(detector):
    assert found(detector, "编号1381234567890123") == []


def test_overlapping_findings_become_one_of_the_surer_kind():
    merged = merge([Finding(4, 9, Kind.PERSON), Finding(0, 6, Kind.EMAIL), Finding(9, 12, Kind.IP)])
    assert merged == [Finding(0, 9, Kind.EMAIL), Finding(9, 12, Kind.IP)]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (is_cn_id, "11010119900307109X", "110101199003071091"),
        (is_luhn, "6222021234567890128", "6222021234567890129"),
        (is_iban, "GB29NWBK60161331926819", "GB29NWBK60161331926818"),
    ],
)
def test_check_digits(check, good, bad):
    assert check(good)
    assert not check(bad)


def test_identity_number_needs_a_real_date():
    assert not is_cn_id("11010119900230" + "109X")


ALPHABET = "0123456789一二三xX+-() .@·:,\n京A王伟省市路号aZé\u200bStreet"


@given(st.text(st.sampled_from(ALPHABET), max_size=200))
def test_any_text_gives_sound_findings(detector, text):
    last = 0
    for each in detector.find(text):
        assert last <= each.start < each.end <= len(text)
        last = each.end


@given(st.text(max_size=60))
def test_folding_keeps_track_of_places(text):
    folded = fold(text)
    if folded.text:
        start, end = folded.original(0, len(folded.text))
        assert fold(text[start:end]).text == folded.text


# 40,000 characters in at most two seconds of processor time: quadratic work takes minutes.
@pytest.mark.parametrize(
    "piece", ["1 ", "a", "@", "1.", "王", "A B ", "路", "市", "1 a ", "::", "Aa-", "(1"]
)
def test_time_grows_with_length_only(detector, piece):
    text = piece * (40_000 // len(piece))
    start = time.process_time()
    detector.find(text)
    assert time.process_time() - start < 2
