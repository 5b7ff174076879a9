"""Every exception autoglm raises, its exit code, and the translation of native errors.

AutoGLMError (1): UsageError (2): InvalidRequestError: ContextOverflowError
  InputError, ModelFileError: ModelNotFoundError, UnsupportedModelError, ModelConfigError
  ResourceError, MissingExtraError, OutputFormatError, CancelledError (130), PrivacyError
  StorageError: VaultError: VaultKeyError, VaultRollbackError. SyncError, CloudError
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType


class AutoGLMError(Exception):
    """Base of all errors; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(AutoGLMError):
    """A flag, setting or argument that cannot be meant."""

    exit_code = 2


class InvalidRequestError(UsageError):
    """A request parameter outside its range."""


class ContextOverflowError(InvalidRequestError):
    """The prompt alone does not fit the context window."""


class GrammarError(InvalidRequestError):
    """A schema or grammar that cannot be used."""


class InputError(AutoGLMError):
    """A text input that is missing, empty, binary, too large or not UTF-8."""


class ModelFileError(AutoGLMError):
    """A broken or hostile model file."""


class ModelNotFoundError(ModelFileError):
    """No model at the given place."""


class UnsupportedModelError(ModelFileError):
    """An architecture or format the engine does not run."""


class ModelConfigError(ModelFileError):
    """A configuration that disagrees with the tensors or the tokenizer."""


class ResourceError(AutoGLMError):
    """Memory or KV cache pages ran out."""


class StorageError(AutoGLMError):
    """Reading or writing files failed: disk full, permission denied."""


class VaultError(StorageError):
    """The encrypted store cannot do what was asked, or its file was damaged or tampered with."""


class VaultKeyError(VaultError):
    """The key does not open the vault; why it does not is not told."""


class VaultRollbackError(VaultError):
    """The vault is older than the last state this device saw."""


class PrivacyError(AutoGLMError):
    """A privacy policy that is not usable, or data it does not let out."""


class MissingExtraError(AutoGLMError):
    """An optional dependency is not installed."""


class OutputFormatError(AutoGLMError):
    """The model's answer does not have the requested form."""


class SyncError(AutoGLMError):
    """A round of synchronisation that cannot be right: another hub, or one that lost data."""


class CloudError(AutoGLMError):
    """The cloud cannot be reached, refuses, or broke off; what it said so far was handed on."""


class CancelledError(AutoGLMError):
    """The request was cancelled."""

    exit_code = 130


_CORE_CLASSES: dict[int, type[AutoGLMError]] = {
    1: ModelFileError,
    2: ModelConfigError,
    3: InvalidRequestError,
    4: ResourceError,
    5: CancelledError,
    6: StorageError,
    7: OutputFormatError,
}


def core_error(code: int, message: str) -> AutoGLMError:
    """The public error for a native code and message."""
    return _CORE_CLASSES.get(code // 100, AutoGLMError)(message)


def from_core(err: Exception) -> AutoGLMError:
    """The public error for a native one, whose `args` are `(code, message)`."""
    match err.args:
        case (int(code), str(message)):
            return core_error(code, message)
        case _:
            return AutoGLMError(str(err))


@contextlib.contextmanager
def translate_core_errors() -> Iterator[None]:
    """Raise native errors as public ones.

    The native class is known by its name, because this layer lies below the native module.
    """
    try:
        yield
    except MemoryError as err:
        message = "out of memory; use a smaller model or a shorter context"
        raise ResourceError(message) from err
    except Exception as err:
        if type(err).__name__ != "CoreError":
            raise
        raise from_core(err) from err


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency, or name the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name != module.partition(".")[0]:
            raise
        message = f"'{module}' is not installed; run: pip install 'autoglm[{extra}]'"
        raise MissingExtraError(message) from err
