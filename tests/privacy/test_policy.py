"""A policy that is not complete and exact is refused, and the table tells what it says."""

import re
from pathlib import Path

import pytest

from autoglm.errors import PrivacyError
from autoglm.privacy import policy as policy_module
from autoglm.privacy.pii.kinds import Kind
from autoglm.privacy.policy import load_policy, table

SHIPPED = Path(policy_module.__file__).with_name("policy.toml")
OF_CN_ID = 'form = "placeholder"\nretention_days = 0\n\n'
MOBILE = "[classes.mobile]"
GUIDE = Path(__file__).parents[2] / "docs/guide/privacy.md"


def with_change(tmp_path, old: str, new: str) -> Path:
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "policy.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_shipped_policy_has_a_rule_for_every_kind():
    policy = load_policy()
    assert set(Kind) <= set(policy.classes)
    assert {name for fields in policy.messages.values() for name in fields.values()} <= set(
        policy.classes
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"),
        ("version = 1", "version = 1\nextra = 1"),
        ('where = "device"', 'where = "moon"'),
        (OF_CN_ID + MOBILE, OF_CN_ID.replace("placeholder", "coarse") + MOBILE),
        ('form = "placeholder"', 'form = "plain"'),
        ("retention_days = 0", "retention_days = -1"),
        ("retention_days = 0", "retention_days = true"),
        ("retention_days = 0\n", ""),
        ("[classes.mobile]", "[classes.mobil]"),
        ('prompt = "text"', 'prompt = "txet"'),
        ("noise_metres = 2000", "noise_metres = 1"),
        ('what = "mobile numbers (China)"', 'what = " "'),
        ("[location]", "[location"),
    ],
)
def test_policy_with_a_fault_is_refused(tmp_path, old, new):
    with pytest.raises(PrivacyError):
        load_policy(with_change(tmp_path, old, new))


def test_policy_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(PrivacyError):
        load_policy(tmp_path / "none.toml")
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PrivacyError):
        load_policy(path)


def test_table_of_the_guide_is_what_the_policy_says():
    guide = GUIDE.read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- policy: begin -->\n(.*?)<!-- policy: end -->", guide, re.DOTALL)
    assert shown == table(load_policy()), "run `make docs`"
