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
        ("收款账号 6222\t0212\t3456\t7890\t128", [("bank_card", "6222\t0212\t3456\t7890\t128")]),
        ("手机139·0013·8888", [("mobile", "139·0013·8888")]),
        ("手机1\u20e33\u20e3900138888", [("mobile", "1\u20e33\u20e3900138888")]),
        ("往来港澳通行证号码：CA1234567", [("passport", "CA1234567")]),
        ("台胞证12345678。", [("passport", "12345678")]),
        ("13800138000三个号都打不通", [("mobile", "13800138000")]),
        ("手机幺三八零零幺三八零零零", [("mobile", "幺三八零零幺三八零零零")]),
        ("邮箱是 李明@例子.公司，", [("email", "李明@例子.公司")]),
        ("SSN 308 63 0237", [("ssn", "308 63 0237")]),
        ("联系人：李 明", [("person", "李 明")]),
        ("王　芳女士您好", [("person", "王　芳")]),
        ("passport no: K1234567A", [("passport", "K1234567A")]),
        ("护照 E 1 2 3 4 5 6 7 8", [("passport", "E 1 2 3 4 5 6 7 8")]),
        ("mailto:tom.o'neil@uni-bonn.de", [("email", "tom.o'neil@uni-bonn.de")]),
        (
            "write to mary dot jones at example dot org",
            [("email", "mary dot jones at example dot org")],
        ),
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
        "路由器与路径的查询，官方文件包含关键字、向量和方差。",
        "线段树的左子树，函数的单峰，房源的高亮显示。",
        "Section 4.2.1.3 of the spec; 参见第4.2.1.3节，版本号 5.15.0.91",
        "mem 1390 MB, up 138 days",
        "条形码 6 901234 567892，SKU 6901234567892",
        "In July we shipped 13800 units; in August 13900. Translate it into French.",
        "附近一家大型互联网公司，和一所知名大学",
    ],
)
def test_harmless_text_is_left_alone(detector, text):
    assert found(detector, text) == []


@pytest.mark.parametrize(
    ("text", "kind", "hidden"),
    [
        (
            "家在厦门市思明区湖滨南路81号3单元502，三楼",
            "address",
            "厦门市思明区湖滨南路81号3单元502",
        ),
        (
            "at 221B Baker Street, London NW1 6XE today",
            "address",
            "221B Baker Street, London NW1 6XE",
        ),
        (
            "He moved to 350 5th Ave, New York, NY 10118",
            "address",
            "350 5th Ave, New York, NY 10118",
        ),
        ("Unter den Linden 77, 10117 Berlin", "address", "Unter den Linden 77, 10117 Berlin"),
        ("to 12 rue de Rivoli, 75001 Paris.", "address", "12 rue de Rivoli, 75001 Paris"),
        ("to Flat 3, 17 Rosemary Lane, Leeds LS1 4QT", "address", "Flat 3, 17 Rosemary Lane"),
        ("at Flat 12B, Tower 3, Festival City", "address", "Flat 12B, Tower 3, Festival City"),
        ("我叫阿依古丽·买买提，来自喀什", "person", "阿依古丽·买买提"),
        ("扎西顿珠在拉萨开店", "person", "扎西顿珠"),
        ("小组长聂耳安排值日", "person", "聂耳"),
        ("Nguyễn Văn Anh is the new intern.", "person", "Nguyễn Văn Anh"),
        ("Mohammed al-Fayed signed the lease.", "person", "Mohammed al-Fayed"),
        ("她在北京字节跳动科技有限公司上班", "organisation", "北京字节跳动科技有限公司"),
        ("招商银行股份有限公司发来函件", "organisation", "招商银行股份有限公司"),
        ("就职于中国工商银行北京分行", "organisation", "中国工商银行北京分行"),
        ("阿里巴巴（中国）有限公司", "organisation", "阿里巴巴（中国）有限公司"),
    ],
)
def test_names_and_addresses_are_found_whole(detector, text, kind, hidden):
    assert any(name == kind and hidden in words for name, words in found(detector, text))


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
