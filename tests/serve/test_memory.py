"""What the service keeps: models in one budget of memory, and what was read beyond a restart."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from tests.serve.conftest import Server, chat, serving

from autoglm.cli.main import main
from autoglm.config import load_settings
from autoglm.errors import VaultError
from autoglm.serve.models import MIB, Models

ROUTE = "/v1/chat/completions"
LONG = "Ann: Friday it is. " * 20


@pytest.fixture
def vault(tmp_path, monkeypatch) -> Path:
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert main(["vault", "create", "--key", "file"]) == 0
    return tmp_path / "XDG_DATA_HOME" / "autoglm" / "vault"


def cached_tokens(server: Server, text: str = LONG) -> int:
    usage = server.post(ROUTE, chat(text)).json["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"]


def test_what_was_read_outlives_the_service(tiny_bundle, vault) -> None:
    arguments = ("--model", str(tiny_bundle), "--kv-mib", "64")
    with serving(*arguments) as server:
        assert cached_tokens(server) == 0
    assert [file.suffix for file in (vault / "kv").iterdir()] == [".kv"]
    with serving(*arguments) as server:
        assert cached_tokens(server) >= 320


def test_saving_needs_a_vault(tiny_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(VaultError, match="autoglm vault create makes one"):
        main(["serve", "--model", str(tiny_bundle), "--kv-mib", "64"])


@pytest.fixture
def two_models(tiny_bundle, tmp_path) -> list[Path]:
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        shutil.copytree(tiny_bundle, path, copy_function=os.link)
    return paths


@pytest.fixture
def budget_server(two_models, tmp_path):
    """Two models and memory for one of them."""
    settings = load_settings(environ={})
    one = next(iter(Models(settings, two_models, keep_alive_s=None).served.values()))
    need = one.need_bytes // MIB + 1
    config = tmp_path / "config.toml"
    models = ", ".join(f'"{path}"' for path in two_models)
    config.write_text(f"[serve]\nmodels = [{models}]\nmemory_mib = {need}\n")
    with serving(config=config) as server:
        yield server


def loaded(server: Server) -> list[str]:
    return [model["id"] for model in server.get("/v1/models").json["data"] if model["is_loaded"]]


def test_models_take_turns_in_the_memory_they_share(budget_server: Server) -> None:
    for name in ("one", "two", "one"):
        assert budget_server.post(ROUTE, chat(model=name)).status == 200
        assert loaded(budget_server) == [name]


def test_a_model_in_use_is_not_taken_away(budget_server: Server) -> None:
    body = chat(model="one", max_tokens=100_000, ignore_eos=True, timeout=2)
    running = threading.Thread(target=budget_server.post, args=(ROUTE, body))
    running.start()
    while budget_server.metric("generated_tokens_total") < 1:
        """Until the first model answers."""
    refused = budget_server.post(ROUTE, chat(model="two"))
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert "memory_mib" in refused.json["error"]["message"]
    running.join()
    assert budget_server.post(ROUTE, chat(model="two")).status == 200
