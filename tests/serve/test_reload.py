"""Settings that change under a running service, and the command that shows and checks them."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from tests.serve.conftest import Server, chat, serving

from autoglm.cli.main import main
from autoglm.config import load_settings
from autoglm.errors import StorageError, UsageError
from autoglm.serve.settings import ServeSettings, load_serve_settings

ROUTE = "/v1/chat/completions"


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("[serve]\nslots = 3\nqueue = 5\n")
    return path


@pytest.fixture
def running(config):
    with serving(config=config) as server:
        yield server


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


def test_a_changed_file_is_read_without_a_new_start(running: Server, config) -> None:
    assert running.metric("slots") == 3
    config.write_text("[serve]\nslots = 4\nqueue = 5\ntemperature = 0.5\n")
    wait_for(lambda: running.metric("slots") == 4)
    assert running.post(ROUTE, chat()).status == 200


def test_sampling_that_a_request_leaves_open_is_the_services(running: Server, config) -> None:
    body = chat("Tell me", max_tokens=24, temperature=2, seed=1)

    def answer(**fields) -> str:
        return running.post(ROUTE, body | fields).json["choices"][0]["message"]["content"]

    wild, tame = answer(), answer(top_k=1)
    assert wild != tame
    config.write_text("[serve]\nslots = 3\nqueue = 5\ntop_k = 1\n")
    assert running.post("/config/reload", {}).json["applied"] == ["top_k"]
    assert (answer(), answer(top_k=0)) == (tame, wild)


def test_a_bad_file_changes_nothing(running: Server, config) -> None:
    config.write_text("[serve]\nslots = 0\n")
    reply = running.post("/config/reload", {})
    assert reply.status == 400
    assert "slots is 0" in reply.json["error"]["message"]
    assert running.metric("slots") == 3
    config.write_text("[serve]\nslots = 3\nmodels = ['/nowhere']\n")
    assert running.post("/config/reload", {}).status == 404
    assert running.post(ROUTE, chat()).status == 200


def test_what_needs_a_new_start_is_named(running: Server, config) -> None:
    config.write_text("[serve]\nslots = 2\nport = 1\nhosts = ['box.local']\n")
    answer = running.post("/config/reload", {}).json
    assert set(answer["applied"]) == {"slots", "queue"}
    assert answer["needs_restart"] == ["hosts"], "the port was given as a flag"


def test_models_change_under_running_requests(
    running: Server, config, tiny_bundle, tmp_path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    results = []

    def ask() -> None:
        body = chat(max_tokens=1200, ignore_eos=True)
        results.append(running.post(ROUTE, body))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: running.metric("requests_running") == 1 or results)
    config.write_text(
        f"[serve]\nmodels = [{json.dumps(str(tiny_bundle))}, {json.dumps(str(other))}]\n"
    )
    assert "models" in running.post("/config/reload", {}).json["applied"]
    names = [model["id"] for model in running.get("/v1/models").json["data"]]
    assert names == ["tiny", "other"]
    assert running.post(ROUTE, chat(model="other")).json["model"] == "other"
    assert running.post(ROUTE, chat(model="lite")).status == 404
    thread.join()
    assert results[0].status == 200
    assert results[0].json["usage"]["completion_tokens"] == 1200


def test_an_unused_model_is_given_back(config) -> None:
    config.write_text("[serve]\nkeep_alive_s = 0.5\n")
    with serving(config=config) as server:
        assert server.post(ROUTE, chat()).status == 200
        wait_for(lambda: server.metric("models_loaded") == 0)
        assert server.post(ROUTE, chat()).status == 200


def test_the_command_shows_checks_and_reloads(running: Server, config, capsys, monkeypatch) -> None:
    monkeypatch.setenv("AUTOGLM_CONFIG", str(config))
    assert main(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["serve"]["slots"], shown["max_tokens"]) == (3, 512)
    assert main(["config", "check"]) == 0
    assert "ok" in capsys.readouterr().out
    config.write_text("[serve]\nslots = 6\nqueue = 5\n")
    assert main(["config", "reload", "--port", str(running.port)]) == 0
    assert running.metric("slots") == 6
    config.write_text("[serve]\nslots = 'many'\n")
    with pytest.raises(UsageError, match="slots is 'many'; expected int"):
        main(["config", "check"])


def test_what_is_shown_can_stand_in_a_file(tmp_path, capsys) -> None:
    assert main(["config", "show"]) == 0
    path = tmp_path / "copy.toml"
    path.write_text(capsys.readouterr().out)
    assert load_settings(environ={}, path=path) == load_settings(environ={})
    assert load_serve_settings({}, environ={}, path=path) == ServeSettings()


def test_reload_without_a_service_says_so(monkeypatch) -> None:
    monkeypatch.delenv("AUTOGLM_CONFIG", raising=False)
    with pytest.raises(StorageError, match="no service answers"):
        main(["config", "reload", "--port", "1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\nslot = 1", "has no slot"),
        ("serve = 3", "expected a table"),
        ("[serve]\nslots = 65", "slots is 65"),
        ("[serve]\nmodels = [1]", "models is"),
        ("[serve]\nlog = 'loud'", "log is 'loud'"),
        ("[serve]\ntop_p = 2", "top_p is 2"),
        ("[serve]\ntop_k = 1.5", "top_k is 1.5; expected int"),
        ("[serve]\nallow_remote = 1", "allow_remote is 1"),
        ("[serve", "not TOML"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, text, message) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_serve_settings({}, environ={}, path=path)
