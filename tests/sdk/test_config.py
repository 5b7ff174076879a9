"""Settings: the order of the sources and the errors that name a bad key."""

from pathlib import Path

import pytest

from autoglm.config import Settings, config_path, load_settings
from autoglm.errors import UsageError


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("threads = 3\nmax_tokens = 30\nmodel = 'file-model'\n", "utf-8")
    return path


def test_defaults_without_any_source(tmp_path: Path) -> None:
    assert load_settings(environ={"HOME": str(tmp_path)}) == Settings()


def test_flag_beats_environment_beats_file_beats_default(config_file: Path) -> None:
    environ = {
        "AUTOGLM_CONFIG": str(config_file),
        "AUTOGLM_THREADS": "2",
        "AUTOGLM_MAX_TOKENS": "20",
    }
    settings = load_settings({"threads": 1, "model": None}, environ=environ)
    assert settings == Settings(threads=1, max_tokens=20, model="file-model")


def test_config_file_lies_in_the_xdg_directory() -> None:
    environ = {"XDG_CONFIG_HOME": "/etc/xdg", "HOME": "/home/ann"}
    assert config_path(environ) == Path("/etc/xdg/autoglm/config.toml")
    assert config_path({"HOME": "/home/ann"}) == Path("/home/ann/.config/autoglm/config.toml")


def test_unknown_key_in_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("treads = 3\n", "utf-8")
    with pytest.raises(UsageError, match=r"unknown setting treads; known: model, offline, threads"):
        load_settings(environ={}, path=path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", "many"),
        ("threads", "-1"),
        ("threads", "9999"),
        ("max_tokens", "0"),
        ("max_text_mib", "1e3"),
        ("offline", "maybe"),
        ("precision", "double"),
    ],
)
def test_bad_environment_value_names_the_variable(name: str, value: str, tmp_path: Path) -> None:
    variable = f"AUTOGLM_{name.upper()}"
    with pytest.raises(UsageError, match=f"^{variable}: {name} is '{value}'; expected"):
        load_settings(environ={variable: value, "HOME": str(tmp_path)})


@pytest.mark.parametrize("text", ["threads = true", "threads = 1.5", "offline = 1", "model = ''"])
def test_wrong_kind_in_the_file_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=r"config\.toml: .* expected"):
        load_settings(environ={}, path=path)


def test_broken_toml_and_a_named_file_that_is_missing_are_usage_errors(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(UsageError, match="No such file"):
        load_settings(environ={"AUTOGLM_CONFIG": str(path)})
    path.write_text("threads =", "utf-8")
    with pytest.raises(UsageError, match="not TOML"):
        load_settings(environ={}, path=path)


def test_true_and_false_are_read_from_the_environment(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert load_settings(environ=home | {"AUTOGLM_OFFLINE": "0"}).offline is False
    assert load_settings(environ=home | {"AUTOGLM_OFFLINE": "Yes"}).offline is True


def test_an_endless_config_file_is_refused() -> None:
    with pytest.raises(UsageError, match="/dev/zero: larger than"):
        load_settings(environ={"AUTOGLM_CONFIG": "/dev/zero"})
