"""Lets the model client of zai-org/Open-AutoGLM talk to the service; nothing of it is kept here.

Usage: phone_agent.py --agent DIR [--model DIR] [--turns N], DIR a checkout of its repository. Every
answer must be an action that the agent's own parser reads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import types
from pathlib import Path

from serving.client import own_service

GRAMMAR = {"guided_grammar": "phone_action"}
TASKS = ("打开微信", "Open the settings", "给张敏发消息：周五上线", "Go back to the home screen")


def load(agent: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """Its client and its parser, without the parts that look for a phone."""
    package = types.ModuleType("phone_agent")
    package.__path__ = [str(agent / "phone_agent")]
    sys.modules["phone_agent"] = package
    client = importlib.import_module("phone_agent.model.client")
    return client, importlib.import_module("phone_agent.actions.handler")


def main() -> int:
    """Ask, parse, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agent", metavar="DIR", type=Path, required=True)
    parser.add_argument("--model", metavar="DIR", type=Path)
    parser.add_argument("--turns", type=int, default=20)
    args = parser.parse_args()
    client, handler = load(args.agent)
    arguments = [] if args.model is None else ["--model", str(args.model)]
    kinds: dict[str, int] = {}
    with own_service(arguments) as server:
        config = client.ModelConfig(
            base_url=f"http://127.0.0.1:{server.port}/v1",
            model_name="lite" if args.model is None else args.model.resolve().name,
            max_tokens=400,
            temperature=1.0,
            extra_body=GRAMMAR,
        )
        talker = client.ModelClient(config)
        build = client.MessageBuilder
        for turn in range(args.turns):
            screen = build.build_screen_info("Home", turn=turn)
            user = build.create_user_message(f"{TASKS[turn % len(TASKS)]}\n\n{screen}")
            system = build.create_system_message("You operate a phone. Answer with one action.")
            with contextlib.redirect_stdout(io.StringIO()):
                response = talker.request([system, user])
                action = handler.parse_action(response.action)
            kind = action.get("action", action["_metadata"])
            kinds[kind] = kinds.get(kind, 0) + 1
    shown = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
    print(f"{args.turns} answers, all read by the agent's parser: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
