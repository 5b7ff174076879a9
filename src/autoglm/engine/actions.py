"""The actions of a phone agent as a grammar: `do(action=...)` and `finish(message=...)`.

The form of zai-org/Open-AutoGLM, whose screen has coordinates from 0 to 999. Thoughts may come
before, between `<think>` and `</think>`; nothing follows: the agent reads all the rest as action.
"""

from __future__ import annotations

from autoglm.types import Grammar

PHONE_ACTION = "phone_action"

# The beginning of every action is one word of the lexer: words that share a beginning would hide
# each other.
_SOURCE = r"""
%llguidance {}
start: thought? action
thought: "<think>" /([^<]){0,1500}/ "</think>" "\n"?
action: finish | launch | tap | type | swipe | plain | wait | take_over | note
finish: "finish(message=" STRING ")"
launch: "do(action=\"Launch\", app=" STRING ")"
tap: tap_name ", element=" point (", message=" STRING)? ")"
tap_name: "do(action=\"Tap\"" | "do(action=\"Long Press\"" | "do(action=\"Double Tap\""
type: ("do(action=\"Type\", text=" | "do(action=\"Type_Name\", text=") STRING ")"
swipe: "do(action=\"Swipe\", start=" point ", end=" point ")"
plain: "do(action=\"Back\")" | "do(action=\"Home\")" | "do(action=\"Interact\")"
wait: "do(action=\"Wait\", duration=\"" /[0-9]{1,3}/ " seconds\")"
take_over: "do(action=\"Take_over\", message=" STRING ")"
note: ("do(action=\"Note\"" | "do(action=\"Call_API\"") about? ")"
about: ", message=" STRING | ", instruction=" STRING
point: "[" NUMBER "," " "? NUMBER "]"
NUMBER: /0|[1-9][0-9]{0,2}/
STRING: /"([^"\\\n]|\\["\\n])*"/
"""


def named_grammar(name: str) -> Grammar | None:
    """The grammar of this name, None when there is none."""
    return Grammar("lark", _SOURCE) if name == PHONE_ACTION else None
