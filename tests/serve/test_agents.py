"""Programs that people run against such services: llm on the command line, LangChain with tools."""

import os
import subprocess
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str, days: int) -> str:
    """The weather of a city for some days."""
    return f"{days} sunny days in {city}"


def test_langchain_calls_a_tool_and_goes_on(server) -> None:
    model = ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="lite", max_tokens=300, temperature=0
    )
    question = HumanMessage("Weather in Rome?")
    asked = model.bind_tools([get_weather], tool_choice="get_weather").invoke([question])
    call = asked.tool_calls[0]
    assert call["name"] == "get_weather"
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = model.bind_tools([get_weather]).invoke([question, asked, result], max_tokens=8)
    assert answer.content or answer.tool_calls
    assert answer.usage_metadata["output_tokens"] <= 8


async def test_langchain_streams(server) -> None:
    model = ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="lite", max_tokens=12)
    pieces = [piece.content async for piece in model.astream("Hello")]
    assert "".join(pieces) == (await model.ainvoke("Hello")).content


def test_llm_answers_on_the_command_line(server, tmp_path) -> None:
    models = f"- model_id: local\n  model_name: lite\n  api_base: {server.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "local", "-o", "max_tokens", "8", "Hello"],
        env=os.environ | {"LLM_USER_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
