"""Messages to prompt ids, with the bundle's own chat template.

The template sees stand-ins for the messages' contents, so what it does depends on the roles and the
tools alone and is remembered. Text from users never turns into control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autoglm.engine.known_prefixes import KnownPrefixes
from autoglm.engine.template import TemplateError, TemplateRefusalError
from autoglm.engine.tools import call_value, form_of, plain_messages, shows_tools, tool_value
from autoglm.errors import InvalidRequestError, ModelFileError
from autoglm.types import Message, Request, Tool

if TYPE_CHECKING:
    from autoglm.engine.tokenizer import Tokenizer

RenderTemplate = Callable[[str, dict[str, Any]], str]

PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"
MAX_REMEMBERED = 64
FIRST_ROLES = ("user",)  # of the plainest request, by which a template is tried
_STAND_IN = re.compile("\ue000([0-9]{1,6})\ue001")


def last_message(request: Request) -> Message:
    """The last message; a user's with what belongs to it: the wanted form and the document."""
    if request.messages[-1].role != "user":
        return request.messages[-1]
    return Message("user", user_content(request))


def user_content(request: Request) -> str:
    """The last user message with the wanted form and the document."""
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
        self._prefixes = KnownPrefixes(tokenizer)
        self._source = PLAIN_TEMPLATE if template is None else template
        self._render = render
        self._variables = dict(special_tokens or {})
        self._first = first
        self._shows_tools = shows_tools(template)
        self.tool_form = form_of(template)
        self._pieces = lru_cache(MAX_REMEMBERED)(self._render_shape)
        if 0 not in self._pieces(FIRST_ROLES, ""):
            message = "the model's chat template cannot be used: it leaves out the user's message"
            raise ModelFileError(message)

    def encode(self, request: Request) -> list[int]:
        """Prompt ids of the request, ending where the answer starts.

        White space around contents is left out. Raises InvalidRequestError when the template
        refuses the messages, or a tool has the name of a control token.
        """
        messages = [*request.messages[:-1], last_message(request)]
        tools = () if request.tool_choice == "none" else request.tools
        extras = ""
        if self._shows_tools:
            extras = self._extras(messages, tools)
        else:
            messages = plain_messages(messages, tools)
        contents = [message.content.strip() for message in messages]
        pieces = self._pieces(tuple(message.role for message in messages), extras)
        if not any(self._tokenizer.is_control_in(content) for content in contents):
            return self._prefixes.encode("".join(_fill(pieces, contents)))
        ids: list[int] = []
        for piece, text in zip(pieces, _fill(pieces, contents), strict=True):
            ids += self._tokenizer.encode(text, has_controls=isinstance(piece, str))
        return ids

    def _extras(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """What a template sees besides contents: tools, and calls by the number of their message.

        Unlike contents these stand in the rendered text, where control tokens count.
        """
        calls = {
            number: {
                "tool_calls": [call_value(call) for call in message.tool_calls],
                "is_empty": not message.content.strip(),
            }
            for number, message in enumerate(messages)
            if message.tool_calls
        }
        if not tools and not calls:
            return ""
        shown = {"tools": [tool_value(tool) for tool in tools], "calls": calls}
        extras = json.dumps(shown, ensure_ascii=False)
        if self._tokenizer.is_control_in(extras):
            message = "the tools or their calls hold the name of a control token of the model"
            raise InvalidRequestError(message)
        return extras

    def _render_shape(self, roles: tuple[str, ...], extras: str) -> list[str | int]:
        """The template's output for such messages: its own texts and the numbers of contents."""
        try:
            if self._first is not None and roles == FIRST_ROLES and not extras:
                begun, self._first = self._first, None
                rendered = begun()
            else:
                context = template_context(roles, self._variables, extras)
                rendered = self._render(self._source, context)
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


def template_context(
    roles: Sequence[str], variables: Mapping[str, str], extras: str = ""
) -> dict[str, Any]:
    """What a template sees: stand-ins for the contents, in messages of these roles.

    `extras` is the JSON of tools and calls.
    """
    messages: list[dict[str, Any]] = [
        {"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)
    ]
    context: dict[str, Any] = {
        **variables,
        "messages": messages,
        "add_generation_prompt": True,
        "enable_thinking": False,  # answers, not reasoning, where the model offers both
    }
    if extras:
        shown = json.loads(extras)
        if shown["tools"]:
            context["tools"] = shown["tools"]
        for number, call in shown["calls"].items():
            messages[int(number)]["tool_calls"] = call["tool_calls"]
            if call["is_empty"]:
                messages[int(number)]["content"] = ""
    return context


def _fill(pieces: Sequence[str | int], contents: Sequence[str]) -> list[str]:
    return [contents[piece] if isinstance(piece, int) else piece for piece in pieces]
