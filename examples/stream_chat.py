"""A conversation in the terminal, word by word: python examples/stream_chat.py (end: Ctrl-D)."""

import asyncio
import sys

from autoglm import AsyncAutoGLMClient, Message


async def main() -> None:
    """Read lines from stdin and stream the answers, each with the turns before it."""
    history: list[Message] = []
    async with AsyncAutoGLMClient() as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            if not line.strip():
                continue
            answer = ""
            async for chunk in client.stream(line.strip(), history=history):
                answer += chunk.text
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
            sys.stdout.write("\n")
            history += [Message("user", line.strip()), Message("assistant", answer)]


if __name__ == "__main__":
    asyncio.run(main())
