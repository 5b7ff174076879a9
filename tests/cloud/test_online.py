"""An enrolled device asks the running service, and answers itself when it has to."""

import os
import subprocess
import sys

import pytest
from tests.cloud.test_devices import invited

from autoglm.client import AutoGLMClient
from autoglm.protocol.credentials import CredentialFile, credentials_path

PROMPT = "请告诉李建国（电话13900138888）明天开会"


@pytest.fixture
def enrolled(service, tmp_path, monkeypatch):
    """A user whose device is enrolled at the running service."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    empty, invitation, _ = invited(service, "online")
    file = CredentialFile(credentials_path(os.environ))
    file.save(empty.exchanged(invitation))
    return file


def test_client_is_answered_by_the_cloud_and_the_log_of_what_left_says_so(enrolled, tmp_path):
    client = AutoGLMClient(offline=False, max_tokens=12)
    result = client.generate(PROMPT)
    assert (result.route.engine, result.route.model) == ("cloud", "localhost")
    assert result.usage.completion_tokens > 0
    log = (tmp_path / "XDG_STATE_HOME" / "autoglm" / "egress.log").read_text(encoding="utf-8")
    assert '"mobile": 1' in log
    assert "13900138888" not in log


def test_schema_is_parsed_wherever_the_answer_comes_from(enrolled):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    client = AutoGLMClient(offline=False)
    assert isinstance(client.generate("true?", schema=schema).data["a"], bool)


def test_offline_switch_keeps_everything_here(enrolled, tmp_path):
    result = AutoGLMClient(offline=True, max_tokens=8).generate(PROMPT)
    assert (result.route.engine, result.route.reason) == ("local", "offline")
    assert not (tmp_path / "XDG_STATE_HOME" / "autoglm").exists()


def test_service_that_is_gone_is_answered_on_the_device(enrolled):
    found = enrolled.load()
    enrolled.save(type(found)(address="http://127.0.0.1:9", token=found.token, renewal="x"))
    result = AutoGLMClient(offline=False, max_tokens=8).generate(PROMPT)
    assert result.route.engine == "local"
    assert "cannot be reached; answered on this device" in result.route.reason


def test_command_asks_the_cloud_and_says_where_the_answer_comes_from(enrolled):
    done = subprocess.run(
        [sys.executable, "-m", "autoglm", "generate", PROMPT, "--online", "--max-tokens", "8"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "autoglm: the cloud answered\n")
    assert done.stdout.strip()
