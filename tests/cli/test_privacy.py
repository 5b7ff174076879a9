"""`autoglm privacy`: what would leave, whether the log is whole, and the table."""

import json

import pytest

from autoglm.privacy.boundary import Boundary, BoundaryPaths

TEXT = "请联系李建国，手机13900138888。\n"


@pytest.fixture
def paths(tmp_path, monkeypatch) -> BoundaryPaths:
    names = ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    environ = {name: str(tmp_path / name) for name in names}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return BoundaryPaths.find(environ)


@pytest.fixture
def letter(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_check_shows_what_would_leave_and_writes_nothing(autoglm, paths, letter):
    done = autoglm("privacy", "check", letter)
    assert done.stdout == "请联系[PERSON_1]，手机[MOBILE_1]。\n"
    assert done.stderr == "replaced: 1 mobile, 1 person\n"
    assert not paths.log.exists()
    assert not paths.secret.exists()


def test_check_gives_json(autoglm, paths, letter):
    report = json.loads(autoglm("privacy", "check", letter, "--json").stdout)
    assert report["removed"] == {"person": 1, "mobile": 1}


def test_check_reads_standard_input(autoglm_process, paths):
    done = autoglm_process("privacy", "check", "-", stdin=TEXT.encode())
    assert done.stdout.startswith("请联系[PERSON_1]")


def test_audit_verifies_the_log_of_the_user(autoglm, paths):
    assert "0 entries" in autoglm("privacy", "audit").stdout
    Boundary.open(paths).leave("inference", {"prompt": TEXT})
    report = json.loads(autoglm("privacy", "audit", "--last", 5, "--json").stdout)
    assert (report["path"], report["entries"], report["ok"]) == (str(paths.log), 1, True)
    assert [entry["removed"] for entry in report["last"]] == [{"person": 1, "mobile": 1}]
    assert '"decision": "sent"' in autoglm("privacy", "audit", "--last", 1).stdout
    paths.log.write_text(paths.log.read_text().replace('"mobile": 1', '"mobile": 0'))
    broken = autoglm("privacy", "audit")
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert "line 1" in broken.stderr


def test_audit_without_the_key_is_an_error(autoglm, paths):
    Boundary.open(paths).leave("inference", {"prompt": TEXT})
    paths.secret.unlink()
    assert autoglm("privacy", "audit").exit_code == 1


def test_table_is_printed(autoglm):
    assert autoglm("privacy", "table").stdout.startswith("| data | for | processed here |")
    assert len(json.loads(autoglm("privacy", "table", "--json").stdout)) > 14


def test_wrong_calls_are_usage_errors(autoglm, tmp_path):
    assert autoglm("privacy", "check").exit_code == 2
    assert autoglm("privacy", "audit", "x").exit_code == 2
    assert autoglm("privacy", "table", "--policy", tmp_path / "none").exit_code == 1
