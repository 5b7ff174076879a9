"""Summarise a meeting on this device: python examples/summarize_meeting.py [TRANSCRIPT]."""

import sys
from pathlib import Path

from autoglm import AutoGLMClient
from autoglm.inputs.text import read_text


def main() -> None:
    """Print the summary on stdout and where it came from on stderr."""
    default = str(Path(__file__).with_name("meeting_zh.txt"))
    transcript = read_text(sys.argv[1] if len(sys.argv) > 1 else default)
    with AutoGLMClient.builder().offline(True).build() as client:
        result = client.generate("请总结以下会议记录要点", transcript)
    sys.stdout.write(result.text + "\n")
    sys.stderr.write(
        f"{result.route.model}: {result.usage.completion_tokens} tokens "
        f"in {result.timings.total_ms:.0f} ms, first after {result.timings.first_token_ms:.0f} ms\n"
    )


if __name__ == "__main__":
    main()
