"""Messages to prompt ids, with the bundle's own chat template.

Templates come with model files, so they run in minijinja (no Python objects, no file access)
with a bound on steps and size. Text from users never turns into control tokens.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoglm.errors import InvalidRequestError, ModelFileError
from autoglm.types import Message, Request

if TYPE_CHECKING:
    import minijinja

    from autoglm.engine.tokenizer import Tokenizer

MAX_TEMPLATE_CHARS = 2**18
MAX_STEPS = 200_000
MAX_OVERHEAD_CHARS = 2**20
# Filters whose output can be far larger than their input.
_UNBOUNDED_FILTERS = ("format", "indent")
_TRAINING_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")

PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"


class _TemplateRefusalError(Exception):
    """What `raise_exception` in a template raises."""


def _raise_exception(reason: str = "") -> None:
    raise _TemplateRefusalError(str(reason)[:200])


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now(tz=datetime.UTC).strftime(pattern[:64])


def user_content(request: Request) -> str:
    """The last user message with what belongs to it: the wanted form and the document."""
    content = request.messages[-1].content
    if request.schema is not None:
        schema = json.dumps(request.schema, ensure_ascii=False)
        content += f"\n\nAnswer only with JSON that fits this schema: {schema}"
    return content if request.text is None else f"{content}\n\n{request.text}"


class PromptBuilder:
    """Renders and encodes the prompts of one model. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        *,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """`special_tokens` are the template's variables such as `bos_token`.

        Without a template the messages stand one after the other. Raises ModelFileError for a
        template that is too long or not one.
        """
        self._tokenizer = tokenizer
        self._variables = dict(special_tokens or {})
        self._environment = _environment(PLAIN_TEMPLATE if template is None else template)

    def encode(self, request: Request) -> list[int]:
        """Prompt ids of the request, ending where the answer starts.

        Raises InvalidRequestError when the template refuses the messages.
        """
        messages = [*request.messages[:-1], Message("user", user_content(request))]
        if not any(self._tokenizer.is_control_in(message.content) for message in messages):
            return self._tokenizer.encode(self._render(messages))
        return self._encode_apart(messages)

    def _encode_apart(self, messages: Sequence[Message]) -> list[int]:
        """Encode contents apart from the template, so that control tokens in them are text."""
        everything = "".join(message.content for message in messages)
        nonce = next(n for n in itertools.count() if f"\ue000{n}." not in everything)
        contents = {f"\ue000{nonce}.{i}\ue001": m.content for i, m in enumerate(messages)}
        stand_ins = [Message(m.role, mark) for m, mark in zip(messages, contents, strict=True)]
        pieces = re.split(f"(\ue000{nonce}\\.\\d+\ue001)", self._render(stand_ins))
        ids: list[int] = []
        for piece in pieces:
            is_template = piece not in contents
            ids += self._tokenizer.encode(contents.get(piece, piece), has_controls=is_template)
        return ids

    def _render(self, messages: Sequence[Message]) -> str:
        import minijinja

        values = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered = self._environment.render_template(
                "chat",
                messages=values,
                add_generation_prompt=True,
                enable_thinking=False,  # answers, not reasoning, where the model offers both
                **self._variables,
            )
        except _TemplateRefusalError as err:
            message = f"the model's chat template refuses these messages: {err}"
            raise InvalidRequestError(message) from err
        except minijinja.TemplateError as err:
            message = f"the model's chat template fails: {_first_line(err)}"
            raise ModelFileError(message) from err
        allowed = MAX_OVERHEAD_CHARS + 2 * sum(len(message.content) for message in messages)
        if len(rendered) > allowed:
            message = f"the model's chat template writes {len(rendered)} characters around a prompt"
            raise ModelFileError(message)
        return rendered


def _environment(template: str) -> minijinja.Environment:
    import minijinja

    if len(template) > MAX_TEMPLATE_CHARS:
        message = f"the chat template has {len(template)} characters, at most {MAX_TEMPLATE_CHARS}"
        raise ModelFileError(message)
    # With debug on, an error message would quote the user's text.
    environment = minijinja.Environment(
        trim_blocks=True, lstrip_blocks=True, fuel=MAX_STEPS, debug=False
    )
    for name in _UNBOUNDED_FILTERS:
        environment.remove_filter(name)
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", _strftime_now)
    try:
        environment.add_template("chat", _TRAINING_TAGS.sub("", template))
    except minijinja.TemplateError as err:
        message = f"the chat template is not one: {_first_line(err)}"
        raise ModelFileError(message) from err
    return environment


def _first_line(err: Exception) -> str:
    return str(err).partition("\n")[0][:200]
