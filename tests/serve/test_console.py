"""The console in a real browser: talk, stop, edit, files, languages, themes, keyboard, phone."""

import itertools
import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.serve.conftest import BROWSER, Server, chat

TRANSCRIPT = "Ann: We ship on Friday.\nBob: I write the notes.\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium; `apt install chromium`."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The console at desktop size in English; the page must log no error."""
    context = browser.new_context(locale="en-US", viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.url)
    expect(opened.locator("#model option")).to_have_count(1)
    yield opened
    context.close()
    assert errors == []


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def answers(page: Page):
    return page.locator("#log li.assistant .body")


def test_an_answer_is_the_services_and_says_where_it_was_computed(page, server) -> None:
    body = chat("Hello", max_tokens=256, top_p=1, top_k=0, repetition_penalty=1, temperature=0)
    expected = server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    say(page, "Hello")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    assert answers(page).text_content() == expected
    about = page.locator("#log li.assistant .about")
    expect(about).to_contain_text("this device · lite")
    expect(about).to_contain_text("Why: offline")


def test_stop_ends_an_answer_and_the_page_goes_on(page) -> None:
    page.locator("#settings summary").click()
    page.get_by_label("Longest answer").fill("1900")
    page.get_by_label("Temperature").fill("2")
    # On a busy machine an answer may be over before a test sees the button: the page presses it.
    page.evaluate(
        """() => new MutationObserver((_, watcher) => {
          const answer = document.querySelector("#log li.assistant .body");
          const stop = document.getElementById("stop");
          if (!answer?.textContent || stop.hidden) return;
          watcher.disconnect();
          document.body.dataset.stopped = "yes";
          stop.click();
        }).observe(document.getElementById("log"), { childList: true, subtree: true })"""
    )
    say(page, "Talk for a long time")
    expect(page.locator("body[data-stopped=yes]")).to_have_count(1)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    page.get_by_label("Longest answer").fill("4")
    say(page, "Again")
    expect(answers(page)).to_have_count(2)
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()


def test_edit_takes_a_turn_back_and_regenerate_repeats_it(page) -> None:
    say(page, "One")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    first = answers(page).text_content()
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    assert answers(page).text_content() == first
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Message")).to_have_value("One")
    expect(page.locator("#log li")).to_have_count(0)


def test_a_file_is_summarised_and_its_name_shown(page) -> None:
    file = {"name": "meeting.txt", "mimeType": "text/plain", "buffer": TRANSCRIPT.encode()}
    page.locator("#chooser").set_input_files(file)
    expect(page.locator("#file-name")).to_have_text("meeting.txt")
    page.get_by_role("button", name="Summarise").click()
    expect(page.locator("#log li.user")).to_contain_text("meeting.txt")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    assert answers(page).text_content()


def test_a_dropped_file_is_opened(page) -> None:
    page.evaluate(
        """text => {
          const data = new DataTransfer();
          data.items.add(new File([text], "dropped.md", { type: "text/markdown" }));
          document.dispatchEvent(new DragEvent("dragenter", { dataTransfer: data }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        TRANSCRIPT,
    )
    expect(page.locator("#file-name")).to_have_text("dropped.md")
    expect(page.locator("#drop")).to_be_hidden()


def test_a_binary_file_is_refused(page) -> None:
    file = {"name": "x.bin", "mimeType": "text/plain", "buffer": b"\x00\xff\xfe"}
    page.locator("#chooser").set_input_files(file)
    expect(page.get_by_role("alert")).to_have_text("This is no text file")


def test_what_a_model_writes_is_never_markup(page) -> None:
    say(page, "<img src=x onerror=alert(1)> <b>bold</b>")
    expect(page.locator("#log li.user .body")).to_have_text(
        "<img src=x onerror=alert(1)> <b>bold</b>"
    )
    assert page.locator("#log img, #log b").count() == 0


def test_language_and_theme_are_switched_and_kept(page) -> None:
    page.locator("#language").click()
    expect(page.get_by_role("button", name="发送")).to_be_visible()
    theme = page.locator("html").get_attribute("data-theme")
    page.locator("#theme").click()
    page.reload()
    expect(page.get_by_role("button", name="发送")).to_be_visible()
    assert page.locator("html").get_attribute("data-theme") != theme
    assert page.locator("html").get_attribute("lang") == "zh-CN"


def test_the_live_panel_counts_requests_and_shows_phases(page) -> None:
    say(page, "Hello")
    expect(page.locator("#last")).to_contain_text("lite", timeout=10_000)
    expect(page.locator("#phases span")).to_have_count(4)
    expect(page.locator("#figures")).to_contain_text(re.compile(r"Running\d+ / 8"))


def test_the_layers_of_the_last_request_follow_each_other(page) -> None:
    page.get_by_label("Longest answer").evaluate("input => { input.value = 200; }")
    page.get_by_label("Temperature").evaluate("input => { input.value = 2; }")  # seldom ends early
    say(page, f"Tell me about {time.time()}")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    for phase in ("read", "write"):
        chart = page.locator(f"#{phase}-layers")
        expect(chart.locator(".name").first).to_have_text("in", timeout=10_000)
        expect(chart.locator(".name").last).to_have_text("out")
        expect(chart).to_have_attribute("aria-label", re.compile(r"Layers: 8, [\d.]+ ms; slowest"))
        starts = chart.locator(".track span.rest").evaluate_all(
            "bars => bars.map(bar => bar.getBoundingClientRect().x)"
        )
        assert starts == sorted(starts)


LUMINANCE = """() => {
  const channel = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const back = e => {
    for (; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color[3] !== 0) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter(e => e.checkVisibility() && !e.disabled)
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .map(e => {
      const pair = [numbers(getComputedStyle(e).color), back(e)].map(light).sort((a, b) => b - a);
      return [(pair[0] + .05) / (pair[1] + .05), e.outerHTML.slice(0, 80)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_background(browser, server, scheme) -> None:
    """Of 4.5 at least, as WCAG's level AA wants."""
    context = browser.new_context(locale="en-US", color_scheme=scheme)
    page = context.new_page()
    page.goto(server.url)
    say(page, "Hello")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    page.locator("#settings summary").click()
    expect(page.locator("#last")).to_contain_text("lite", timeout=10_000)
    assert page.evaluate(LUMINANCE) == []
    context.close()


def test_the_page_has_one_main_part_and_headings_in_order(page) -> None:
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.locator("main").count() == page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("[id]").count() == len(
        set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
    )


def test_the_keyboard_is_enough(page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_label("Message").press_sequentially("Hi")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()


def test_every_control_has_a_name(page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, textarea, input")]
          .filter(e => e.tabIndex >= 0)
          .filter(e => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length))
          .map(e => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_at_any_width(browser, server, tmp_path, width, height, scheme) -> None:
    context = browser.new_context(
        locale="zh-CN", color_scheme=scheme, viewport={"width": width, "height": height}
    )
    page = context.new_page()
    page.goto(server.url)
    page.get_by_label("输入消息").fill("你好，" + "很长的一句话" * 40)
    page.get_by_role("button", name="发送").click()
    expect(page.get_by_role("button", name="重新生成")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("html").get_attribute("data-theme") == scheme
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    context.close()


def test_pages_allow_nothing_from_elsewhere(server) -> None:
    reply = server.get("/")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    text = reply.body.decode()
    assert not re.search(r"https?://|<script>| on\w+=", text)
    for name in re.findall(r'"(/console/[\w.]+)"', text):
        assert server.get(name).status == 200
    for name in ("../app.py", "%2e%2e/app.py", "nothing.js"):
        assert server.get(f"/console/{name}").status == 404
