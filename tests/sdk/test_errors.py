"""The error tree: native codes, missing extras, exit codes."""

import pytest

from autoglm import errors
from autoglm.errors import (
    AutoGLMError,
    CancelledError,
    InvalidRequestError,
    MissingExtraError,
    ModelConfigError,
    ModelFileError,
    ResourceError,
    StorageError,
    require,
    translate_core_errors,
)


class CoreError(Exception):
    """Stands for the native class of the same name."""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (100, ModelFileError),
        (199, ModelFileError),
        (201, ModelConfigError),
        (301, InvalidRequestError),
        (402, ResourceError),
        (501, CancelledError),
        (600, StorageError),
        (999, AutoGLMError),
        (1, AutoGLMError),
    ],
)
def test_range_of_a_native_code_gives_the_class(code: int, expected: type[AutoGLMError]) -> None:
    with pytest.raises(AutoGLMError, match=r"^what was wrong$") as caught, translate_core_errors():
        raise CoreError(code, "what was wrong")
    assert type(caught.value) is expected
    assert isinstance(caught.value.__cause__, CoreError)


def test_an_error_of_the_real_core_is_translated() -> None:
    from autoglm import _core

    with pytest.raises(AutoGLMError), translate_core_errors():
        _core.packed_shapes("int5", 16, 16)


def test_running_out_of_memory_is_a_resource_error() -> None:
    with pytest.raises(ResourceError, match="out of memory"), translate_core_errors():
        raise MemoryError


def test_other_errors_pass_through_the_translation() -> None:
    with pytest.raises(KeyError), translate_core_errors():
        raise KeyError


def test_a_missing_module_becomes_the_line_that_installs_it() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'autoglm\[scale\]'"):
        require("no_such_module_here", extra="scale")


def test_an_installed_module_is_returned() -> None:
    import json

    assert require("json", extra="scale") is json


def test_an_error_inside_an_installed_module_is_not_hidden(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import no_such_module_here")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        require("broken_extra", extra="scale")


def test_every_error_is_ours_and_has_the_exit_code_of_its_kind() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    ours = [value for value in classes if issubclass(value, AutoGLMError)]
    assert len(ours) >= 14
    for error in ours:
        is_usage = issubclass(error, errors.UsageError)
        assert error.exit_code == (2 if is_usage else 130 if error is CancelledError else 1)
