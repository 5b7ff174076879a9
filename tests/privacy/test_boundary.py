"""The boundary lets out what the policy names, replaced as it says, and else nothing."""

import json

import pytest
from tools.privacy_faults import break_filters, plant

from autoglm.errors import PrivacyError, StorageError
from autoglm.privacy.audit import AuditLog
from autoglm.privacy.boundary import Boundary, BoundaryPaths
from autoglm.privacy.location import Place
from autoglm.privacy.pii.detect import Detector
from autoglm.privacy.placeholders import Placeholders
from autoglm.privacy.policy import Form, Where, load_policy

SECRET = bytes(range(32))
TEXT = "请联系李建国，手机13900138888，邮箱 li@example.com。"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


@pytest.fixture
def log(tmp_path) -> AuditLog:
    return AuditLog(tmp_path / "egress.log", b"k" * 32)


def boundary(detector, log=None, **changes) -> Boundary:
    """A boundary whose policy has some classes changed."""
    policy = load_policy()
    classes = {
        name: each._replace(**changes[name]) if name in changes else each
        for name, each in policy.classes.items()
    }
    return Boundary(policy._replace(classes=classes), detector, SECRET, log, clock=lambda: 0.0)


def test_personal_data_is_replaced_and_restored(detector, log):
    departure = boundary(detector, log).leave("inference", {"prompt": TEXT, "max_tokens": 9})
    expected = "请联系[PERSON_1]，手机[MOBILE_1]，邮箱 [EMAIL_1]。"
    assert departure.payload == {"prompt": expected, "max_tokens": 9}
    assert departure.removed == {"person": 1, "mobile": 1, "email": 1}
    assert departure.restore("已通知【person_1】：[ MOBILE_1 ]") == "已通知李建国：13900138888"


def test_equal_values_share_a_placeholder_in_a_conversation(detector):
    border, names = boundary(detector), Placeholders()
    first = border.leave("inference", {"prompt": "电话 13900138888"}, placeholders=names)
    later = border.leave("inference", {"prompt": "电话 139 0013 8888"}, placeholders=names)
    other = border.leave("inference", {"prompt": "电话 13700137777"}, placeholders=names)
    texts = [each.payload["prompt"] for each in (first, later, other)]
    assert texts == ["电话 [MOBILE_1]", "电话 [MOBILE_1]", "电话 [MOBILE_2]"]


def test_text_that_looks_like_a_placeholder_is_not_restored_as_one(detector):
    text = "保留 [MOBILE_1] 和 13900138888"
    departure = boundary(detector).leave("inference", {"prompt": text})
    assert departure.payload["prompt"] == "保留 [MOBILE_1] 和 [MOBILE_2]"
    assert departure.restore(departure.payload["prompt"]) == text


def test_nested_fields_are_screened(detector):
    history = [{"role": "user", "content": TEXT}]
    departure = boundary(detector).leave("inference", {"history": history})
    assert "13900138888" not in json.dumps(departure.payload, ensure_ascii=False)
    assert departure.payload["history"][0]["role"] == "user"


def test_number_that_is_a_telephone_number_does_not_leave(detector):
    with pytest.raises(PrivacyError):
        boundary(detector).leave("inference", {"schema": {"const": 13900138888}})


def test_fields_that_the_policy_does_not_name_are_dropped(detector, log):
    fields = {"prompt": "你好", "contacts": ["x"], "battery": 5}
    departure = boundary(detector, log).leave("inference", fields)
    assert departure.payload == {"prompt": "你好"}
    assert departure.dropped == ("contacts", "battery")


def test_message_that_the_policy_does_not_name_is_refused(detector, log):
    with pytest.raises(PrivacyError):
        boundary(detector, log).leave("telemetry", {"prompt": "你好"})
    (entry,) = log.entries()
    assert (entry["decision"], entry["message"], entry["num_bytes"]) == ("refused", "unknown", 0)


def test_class_that_never_leaves_stops_the_payload(detector):
    border = boundary(detector, mobile={"where": Where.NEVER})
    with pytest.raises(PrivacyError, match="mobile"):
        border.leave("inference", {"prompt": TEXT})
    assert border.leave("inference", {"prompt": "你好"}).payload == {"prompt": "你好"}


def test_class_that_may_leave_is_left_in_the_text(detector):
    border = boundary(detector, email={"where": Where.CLOUD, "form": Form.PLAIN})
    assert "li@example.com" in str(border.leave("inference", {"prompt": TEXT}).payload)


def test_hashes_are_equal_for_equal_values_and_tell_nothing(detector):
    border = boundary(detector, mobile={"form": Form.HASH})
    first, second = (
        str(border.leave("inference", {"prompt": text}).payload["prompt"])
        for text in ("电话 13900138888", "电话 139-0013-8888")
    )
    assert first == second
    assert "mobile:" in first
    assert "139" not in first


def test_place_leaves_coarse_and_identifier_hashed(detector):
    fields = {"location": Place(39.9087, 116.3975), "device_id": "ABC-1"}
    payload = boundary(detector).leave("inference", fields).payload
    assert len(payload["location"]) == 5
    assert payload["device_id"].startswith("identifier:")


def test_log_tells_what_was_removed_and_no_value(detector, log, tmp_path):
    boundary(detector, log).leave("inference", {"prompt": TEXT, "secret-field": "x"})
    (entry,) = log.entries()
    assert entry["removed"] == {"person": 1, "mobile": 1, "email": 1}
    assert (entry["dropped"], entry["fields"]) == (1, {"prompt": "screened"})
    written = (tmp_path / "egress.log").read_text(encoding="utf-8")
    for value in ("李建国", "13900138888", "example.com", "secret-field"):
        assert value not in written


def test_nothing_leaves_when_the_log_cannot_be_written(detector, tmp_path):
    (tmp_path / "egress.log").mkdir()
    log = AuditLog(tmp_path / "egress.log", b"k" * 32)
    with pytest.raises(StorageError):
        boundary(detector, log).leave("inference", {"prompt": "你好"})


def test_nothing_leaves_through_a_broken_filter():
    assert break_filters(500, seed=7).leaked == []


def test_nothing_leaves_through_a_filter_that_is_too_slow(detector, monkeypatch):
    ticks = iter(range(0, 10**6, 60))
    border = boundary(detector)
    monkeypatch.setattr(border._screen, "_clock", lambda: next(ticks))
    with pytest.raises(PrivacyError, match="took more than"):
        border.leave("inference", {"prompt": "你好"})


def test_planted_secrets_turn_up_nowhere():
    assert plant(500, seed=7).leaked == []


def test_planted_secrets_are_seen_when_the_policy_lets_them_out():
    assert len(plant(40, seed=7, lets_out=True).leaked) == 10


def test_boundary_of_the_user_keeps_secret_and_log_private(tmp_path):
    names = ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    paths = BoundaryPaths.find({name: str(tmp_path / name) for name in names})
    Boundary.open(paths).leave("inference", {"prompt": TEXT})
    for path in (paths.secret, paths.log):
        assert path.stat().st_mode & 0o777 == 0o600
    assert paths.secret.parent != paths.log.parent
