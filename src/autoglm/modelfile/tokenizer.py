"""The tokenizer's files as data: chat template, special tokens, largest token id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoglm.errors import ModelConfigError, ModelFileError
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.files import read_bounded, resolve_inside
from autoglm.modelfile.strict_json import read_json

TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"
MAX_TOKENIZER_BYTES = 64 << 20
MAX_TEMPLATE_BYTES = 1 << 20
_MAX_CONTAINERS = 2 << 20


@dataclass(frozen=True, slots=True)
class TokenizerTexts:
    """`chat_template` is Jinja source, from an untrusted file; absent tokens are empty."""

    chat_template: str | None
    bos_token: str
    eos_token: str


def read_tokenizer_texts(directory: Path) -> TokenizerTexts:
    """Template and special tokens; ModelFileError when a file is broken."""
    fields = Fields({}, str(directory / TOKENIZER_CONFIG_NAME))
    if (directory / TOKENIZER_CONFIG_NAME).exists():
        path = resolve_inside(directory, TOKENIZER_CONFIG_NAME)
        fields = Fields(read_json(path), str(path))
    template = _read_template(directory)
    if template is None and fields.has("chat_template"):
        template = _embedded_template(fields)
    return TokenizerTexts(template, _token(fields, "bos_token"), _token(fields, "eos_token"))


def check_vocabulary(path: Path, vocab_size: int) -> None:
    """ModelConfigError when `tokenizer.json` can produce an id that the model has no row for."""
    content = read_json(path, max_bytes=MAX_TOKENIZER_BYTES, max_containers=_MAX_CONTAINERS)
    highest = max(_model_ids(content, path), _added_ids(content, path))
    if highest >= vocab_size:
        message = (
            f"{path}: the tokenizer has token id {highest}, the model has {vocab_size} tokens; "
            "these files do not belong together"
        )
        raise ModelConfigError(message)


def _model_ids(content: dict[str, object], path: Path) -> int:
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    match vocabulary:
        case dict():
            numbers = [number for number in vocabulary.values() if type(number) is int]
            if numbers and len(numbers) == len(vocabulary):
                return max(numbers)
        case list() if vocabulary:
            return len(vocabulary) - 1
    message = f"{path}: has no 'model' with a 'vocab' of token ids"
    raise ModelFileError(message)


def _added_ids(content: dict[str, object], path: Path) -> int:
    added = content.get("added_tokens", [])
    if isinstance(added, list):
        numbers = [token.get("id") if isinstance(token, dict) else None for token in added]
        known = [number for number in numbers if type(number) is int]
        if len(known) == len(added):
            return max(known, default=-1)
    message = f"{path}: 'added_tokens' is not a list of tokens with ids"
    raise ModelFileError(message)


def _read_template(directory: Path) -> str | None:
    if not (directory / CHAT_TEMPLATE_NAME).exists():
        return None
    path = resolve_inside(directory, CHAT_TEMPLATE_NAME)
    try:
        return read_bounded(path, MAX_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError as err:
        message = f"{path}: is not UTF-8"
        raise ModelFileError(message) from err


def _embedded_template(fields: Fields) -> str | None:
    """One template, or the default among named ones."""
    named = fields.objects("chat_template")
    if named is None:
        return fields.text("chat_template")
    for entry in named:
        if entry.text("name") == "default":
            return entry.text("template")
    return None


def _token(fields: Fields, key: str) -> str:
    """A special token, stored as its text or as an object with the text in 'content'."""
    if fields.is_object(key):
        return fields.nested(key).text("content", "")
    return fields.text(key, "")
