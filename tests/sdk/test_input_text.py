"""Reading a text input: what is accepted, and the one line each bad input ends in."""

import io
from pathlib import Path

import pytest

from autoglm.errors import InputError
from autoglm.inputs.text import read_text


def write(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "meeting.txt"
    path.write_bytes(data)
    return str(path)


def test_byte_order_mark_and_windows_line_ends_are_removed(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + "张敏：开始。\r\n李强：好。\r".encode())
    assert read_text(path) == "张敏：开始。\n李强：好。\n"


def test_dash_reads_standard_input() -> None:
    assert read_text("-", stdin=io.BytesIO(b"Ann: hello")) == "Ann: hello"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"abc\0def", "binary .NUL at byte 3."),
        ("会议".encode("gbk"), "not UTF-8 at byte 0"),
        (b"abc\xff", "not UTF-8 at byte 3"),
        (b"\xed\xa0\x80", "not UTF-8"),
    ],
)
def test_bad_content_is_named(tmp_path: Path, data: bytes, expected: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(InputError, match=expected) as caught:
        read_text(path)
    assert str(caught.value).startswith(path)


def test_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"^absent\.txt: no such file$"):
        read_text("absent.txt")


@pytest.mark.parametrize("name", [".", "a\0b", "x" * 5000])
def test_unreadable_names_are_input_errors(name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_text(name)


def test_a_file_at_the_cap_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    assert len(read_text(write(tmp_path, b"a" * 100), max_bytes=100)) == 100
    with pytest.raises(InputError, match="larger than 100 bytes"):
        read_text(write(tmp_path, b"a" * 101), max_bytes=100)


def test_an_endless_file_is_refused_without_reading_it_all() -> None:
    with pytest.raises(InputError, match="larger than"):
        read_text("/dev/zero", max_bytes=1000)
