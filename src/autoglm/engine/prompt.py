"""Messages to prompt ids, with the bundle's own chat template.

The template sees stand-ins for the messages' contents, so what it does depends on the roles alone
and is remembered. Text from users never turns into control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autoglm.engine.template import TemplateError, TemplateRefusalError
from autoglm.errors import InvalidRequestError, ModelFileError
from autoglm.types import Message, Request

if TYPE_CHECKING:
    from autoglm.engine.tokenizer import Tokenizer

RenderTemplate = Callable[[str, dict[str, Any]], str]

PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"
MAX_REMEMBERED = 64
FIRST_ROLES = ("user",)  # of the plainest request, by which a template is tried
_STAND_IN = re.compile("\ue000([0-9]{1,6})\ue001")


def user_content(request: Request) -> str:
    """The last user message with what belongs to it: the wanted form and the document."""
    content = request.messages[-1].content.strip()
    if request.schema is not None:
        schema = json.dumps(request.schema, ensure_ascii=False)
        content += f"\n\nAnswer only with JSON that fits this schema: {schema}"
    return content if request.text is None else f"{content}\n\n{request.text.strip()}"


class PromptBuilder:
    """Renders and encodes the prompts of one model. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        *,
        render: RenderTemplate,
        special_tokens: Mapping[str, str] | None = None,
        first: Callable[[], str] | None = None,
    ) -> None:
        """`special_tokens` are the template's variables such as `bos_token`.

        `first` gives the text for FIRST_ROLES when somebody renders that already. Without a
        template the messages stand one after the other. Raises ModelFileError for a template that
        cannot be used.
        """
        self._tokenizer = tokenizer
        self._source = PLAIN_TEMPLATE if template is None else template
        self._render = render
        self._variables = dict(special_tokens or {})
        self._first = first
        self._pieces = lru_cache(MAX_REMEMBERED)(self._render_roles)
        if 0 not in self._pieces(FIRST_ROLES):
            message = "the model's chat template cannot be used: it leaves out the user's message"
            raise ModelFileError(message)

    def encode(self, request: Request) -> list[int]:
        """Prompt ids of the request, ending where the answer starts.

        White space around contents is left out. Raises InvalidRequestError when the template
        refuses the messages.
        """
        messages = [*request.messages[:-1], Message("user", user_content(request))]
        contents = [message.content.strip() for message in messages]
        pieces = self._pieces(tuple(message.role for message in messages))
        if not any(self._tokenizer.is_control_in(content) for content in contents):
            return self._tokenizer.encode("".join(_fill(pieces, contents)))
        ids: list[int] = []
        for piece, text in zip(pieces, _fill(pieces, contents), strict=True):
            ids += self._tokenizer.encode(text, has_controls=isinstance(piece, str))
        return ids

    def _render_roles(self, roles: tuple[str, ...]) -> list[str | int]:
        """The template's output for these roles: its own texts and the numbers of contents."""
        try:
            if self._first is not None and roles == FIRST_ROLES:
                begun, self._first = self._first, None
                rendered = begun()
            else:
                rendered = self._render(self._source, template_context(roles, self._variables))
        except TemplateRefusalError as err:
            message = f"the model's chat template refuses these messages: {err}"
            raise InvalidRequestError(message) from err
        except TemplateError as err:
            message = f"the model's chat template cannot be used: {err}"
            raise ModelFileError(message) from err
        # Texts and numbers take turns; a number that no message has is text.
        split = _STAND_IN.split(rendered)
        return [
            int(piece) if index % 2 and int(piece) < len(roles) else piece
            for index, piece in enumerate(split)
        ]


def template_context(roles: Sequence[str], variables: Mapping[str, str]) -> dict[str, Any]:
    """What a template sees: stand-ins for the contents, in messages of these roles."""
    messages = [
        {"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)
    ]
    return {
        **variables,
        "messages": messages,
        "add_generation_prompt": True,
        "enable_thinking": False,  # answers, not reasoning, where the model offers both
    }


def _fill(pieces: Sequence[str | int], contents: Sequence[str]) -> list[str]:
    return [contents[piece] if isinstance(piece, int) else piece for piece in pieces]
