"""Random edits of a bundle's small files: it opens, or a ModelFileError says why not."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm.errors import ModelFileError
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert
from autoglm.modelfile.verify import verify

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "manifest.json")
VALUES = (
    b"0",
    b"-1",
    b"0.5",
    b"1e999",
    b"9" * 25,
    b"null",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b'"\\ud800"',
)
MARKS = (b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\x00", b"\xff")


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("edited")
    source = path / "source"
    source.mkdir()
    for file in tiny_checkpoint.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (source / "generation_config.json").write_bytes(b'{"eos_token_id": [1, 2], "top_p": 0.9}')
    convert(source, path / "bundle", "int4")
    return path / "bundle"


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, list[tuple[float, int, bytes]]]:
    """A file and up to four edits: where, how many bytes go, what comes instead."""
    place = st.floats(0, 1)
    removed = st.integers(0, 12)
    inserted = st.sampled_from((b"", *VALUES, *MARKS))
    changes = draw(st.lists(st.tuples(place, removed, inserted), min_size=1, max_size=4))
    return draw(st.sampled_from(FILES)), changes


@settings(deadline=None)
@given(edits())
def test_edited_bundle_opens_or_ends_in_a_model_file_error(bundle, edit):
    name, changes = edit
    original = (bundle / name).read_bytes()
    content = bytearray(original)
    for place, removed, inserted in changes:
        begin = int(place * len(content))
        content[begin : begin + removed] = inserted
    (bundle / name).write_bytes(content)
    try:
        with contextlib.suppress(ModelFileError):
            open_bundle(bundle)
        if content != original:
            with pytest.raises(ModelFileError):
                verify(bundle)
    finally:
        (bundle / name).write_bytes(original)
