"""Text to token ids and back, over the `tokenizers` library.

Owns the rule that text from users never turns into control tokens, and incremental decoding.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.errors import InvalidRequestError, ModelConfigError, ModelFileError
from autoglm.modelfile.files import read_bounded
from autoglm.modelfile.tokenizer import MAX_TOKENIZER_BYTES
from autoglm.types import MAX_TOKEN_ID, check_type

if TYPE_CHECKING:
    import tokenizers

# With a prefix that does not fit its merges the library (0.23) aborts the process.
_SUBWORD_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*+:\s*+(?!null|"")')
# Nobody writes these, and they would hide the key above.
_ESCAPED_ASCII = re.compile(rb"u00(?:[2-6][0-9a-fA-F]|7[0-9a-eA-E])")
REPLACEMENT = "\ufffd"
# A character has at most four bytes; with more tokens waiting the bytes are not UTF-8 at all.
MAX_PENDING_TOKENS = 8
MAX_CHARACTER_BYTES = 4
# Longer texts take more than a millisecond.
MAX_QUICK_CHARS = 2048


def _is_panic(err: BaseException) -> bool:
    """Whether a fault inside the library surfaced; its class is not an Exception."""
    return type(err).__name__ == "PanicException"


def _has_escaped_ascii(content: bytes) -> bool:
    for match in _ESCAPED_ASCII.finditer(content):
        before = content[max(0, match.start() - 64) : match.start()]
        num_backslashes = len(before) - len(before.rstrip(b"\\"))
        if num_backslashes % 2:
            return True
    return False


@contextmanager
def _panics_translated() -> Iterator[None]:
    try:
        yield
    except BaseException as err:
        if isinstance(err, Exception) or _is_panic(err):
            message = "the model's tokenizer fails; tokenizer.json is broken"
            raise ModelFileError(message) from err
        raise


class Tokenizer:
    """The tokenizer of one model. Safe to use from several threads."""

    def __init__(self, backend: tokenizers.Tokenizer, *, vocab_size: int | None = None) -> None:
        """`vocab_size` is the number of rows of the embedding, if there is one."""
        self._backend = backend
        self._vocab_size = vocab_size
        self._changed = threading.Condition()
        self._num_encoding = 0
        added = backend.get_added_tokens_decoder().items()
        self._controls = {id_: token.content for id_, token in added if token.special}
        # Whether text without the name of a control token cannot become one.
        self._is_literal = not any(token.normalized for _, token in added if token.special)
        self._added = [token for _, token in added]

    @classmethod
    def from_file(cls, path: Path, *, vocab_size: int) -> Tokenizer:
        """Open `tokenizer.json`. `vocab_size` is the number of rows of the embedding.

        Raises ModelFileError when it is no tokenizer, ModelConfigError when it has ids beyond
        the embedding.
        """
        import tokenizers

        from autoglm._core import release_free_memory

        content = read_bounded(path, MAX_TOKENIZER_BYTES)
        if _SUBWORD_PREFIX.search(content) or _has_escaped_ascii(content):
            message = f"{path}: has a subword prefix, or letters written as \\u escapes"
            raise ModelFileError(message)
        try:
            backend = tokenizers.Tokenizer.from_buffer(content)
        except BaseException as err:  # the library raises bare Exception
            if not isinstance(err, Exception) and not _is_panic(err):
                raise
            message = f"{path}: not a tokenizer this version reads: {str(err)[:200]}"
            raise ModelFileError(message) from err
        # Parsing leaves as much free memory in the heap as the tokenizer takes.
        release_free_memory()
        backend.no_padding()
        backend.no_truncation()
        top_id = max(backend.get_added_tokens_decoder(), default=-1)
        top_id = max(top_id, backend.get_vocab_size(with_added_tokens=True) - 1)
        if top_id >= vocab_size:
            message = f"{path}: has token id {top_id}, but the model has {vocab_size} tokens"
            raise ModelConfigError(message)
        return cls(backend, vocab_size=vocab_size)

    def encode(self, text: str, *, has_controls: bool = True) -> list[int]:
        """Token ids of `text`; control tokens written in it count only if `has_controls`.

        Raises InvalidRequestError for text with lone surrogates, ModelConfigError for a token that
        the model has no row for.
        """
        check_type("text", text, str, "a string")
        try:
            text.encode()
        except UnicodeEncodeError as err:
            message = "the text has characters that are not valid Unicode (lone surrogates)"
            raise InvalidRequestError(message) from err
        if not has_controls and self._is_literal and not self.is_control_in(text):
            has_controls = True  # the same tokens, beside all others that are encoded so
        with self._counting(has_controls), _panics_translated():
            ids = self._encoded(text)
        # Ids may have gaps; the whole table would take tens of milliseconds to look through.
        if self._vocab_size is not None and max(ids, default=-1) >= self._vocab_size:
            message = (
                f"the tokenizer gives token id {max(ids)}, but the model has {self._vocab_size} "
                "tokens; these files do not belong together"
            )
            raise ModelConfigError(message)
        return ids

    def _encoded(self, text: str) -> list[int]:
        """The ids; long texts are encoded without the GIL, so that others go on."""
        if len(text) <= MAX_QUICK_CHARS:
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            return ids
        [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

    @contextmanager
    def _counting(self, has_controls: bool) -> Iterator[None]:
        """Whether control tokens count is a state of the library: those who agree go together."""
        with self._changed:
            while self._num_encoding and self._backend.encode_special_tokens == has_controls:
                self._changed.wait()
            if self._backend.encode_special_tokens == has_controls:
                self._backend.encode_special_tokens = not has_controls
            self._num_encoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_encoding -= 1
                if not self._num_encoding:
                    self._changed.notify_all()

    def decode(self, ids: Sequence[int], *, has_controls: bool = False) -> str:
        """The text of `ids`, with or without control tokens; unknown ids have none.

        Raises InvalidRequestError for what is no token id.
        """
        for token in ids:
            if type(token) is not int or not 0 <= token <= MAX_TOKEN_ID:
                message = f"token id is {token!r}; expected a whole number from 0 to 2**31-1"
                raise InvalidRequestError(message)
        with _panics_translated():
            return self._backend.decode(list(ids), skip_special_tokens=not has_controls)

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return self._backend.to_str()

    def vocabulary(self) -> dict[str, int]:
        """The id of every token."""
        return self._backend.get_vocab(with_added_tokens=True)

    def is_control(self, token_id: int) -> bool:
        """Whether the token is left out of decoded text."""
        return token_id in self._controls

    def control_name(self, token_id: int) -> str:
        """What a control token is called in text."""
        return self._controls[token_id]

    def starts_with_control(self, text: str, start: int) -> bool:
        """Whether the name of a control token stands at `start`."""
        return text.startswith(tuple(self._controls.values()), start)

    @cached_property
    def has_firm_controls(self) -> bool:
        """Whether a control token is found by its name alone, whatever stands before it.

        Then text may be cut before one: the ids of both sides are those of the whole.
        """
        names = set(self._controls.values())
        beginnings = {name[:end] for name in names for end in range(1, len(name) + 1)}
        lengths = set(map(len, names))
        for token in self._added:
            if token.special and (token.lstrip or token.single_word or token.normalized):
                return False
            for start in range(1, len(token.content)):
                tail = token.content[start:]
                if tail in beginnings or any(tail[:length] in names for length in lengths):
                    return False  # it could reach across the cut
        return True

    def is_control_name(self, text: str) -> bool:
        """Whether `text` is the name of a control token."""
        return text in self._controls.values()

    def is_control_in(self, text: str) -> bool:
        """Whether `text` contains the name of a control token."""
        return any(control in text for control in self._controls.values())


class Detokenizer:
    """Turns a growing id sequence into text pieces that concatenate to its decoding.

    A piece never ends inside a character: its bytes wait until they are complete.
    """

    def __init__(self, tokenizer: Tokenizer, *, has_controls: bool = False) -> None:
        """`has_controls` keeps the names of control tokens in the text."""
        self._tokenizer = tokenizer
        self._has_controls = has_controls
        self._ids: list[int] = []
        self._start = 0  # ids from here on are decoded again, as context of the next ones
        self._read = 0  # ids before here have been given out

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes, often empty."""
        if not self._has_controls and self._tokenizer.is_control(token_id):
            return ""
        self._ids.append(token_id)
        before, after = self._decode_both()
        is_broken = after.endswith(REPLACEMENT)
        if len(after) <= len(before) and not is_broken:
            return ""
        if not is_broken:
            return self._give_out(len(self._ids), before, after)
        if len(self._ids) - self._read < MAX_PENDING_TOKENS:
            return ""
        return self._give_up(before, after)

    def flush(self) -> str:
        """The text of what still waits, U+FFFD for bytes that stayed incomplete."""
        before, after = self._decode_both()
        self._start = self._read = len(self._ids)
        return after[len(before) :]

    def _give_up(self, before: str, after: str) -> str:
        """What waits, but for a tail that may be the beginning of a character."""
        for num_kept in range(MAX_CHARACTER_BYTES - 1, 0, -1):
            end = len(self._ids) - num_kept
            head = self._decoded(self._ids[self._start : end])
            if head + self._decoded(self._ids[end:]) == after:
                return self._give_out(end, before, head)
        return self._give_out(len(self._ids), before, after)

    def _give_out(self, end: int, before: str, text: str) -> str:
        self._start, self._read = self._read, end
        return text[len(before) :]

    def _decode_both(self) -> tuple[str, str]:
        before, after = self._ids[self._start : self._read], self._ids[self._start :]
        return self._decoded(before), self._decoded(after)

    def _decoded(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, has_controls=self._has_controls)
