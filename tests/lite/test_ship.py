"""A folder survives being carried in pieces; a missing or damaged piece is named, not guessed."""

import random

import pytest

from autoglm.errors import InputError
from autoglm.lite.ship import pack, unpack

PIECE = 10_000


@pytest.fixture
def pieces(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tokens_000.bin").write_bytes(random.Random(1).randbytes(35_000))
    (folder / "card.json").write_text("{}")
    pack(folder, tmp_path / "pieces", PIECE)
    return tmp_path / "pieces"


def test_a_folder_comes_back_with_the_same_bytes(pieces, tmp_path):
    sizes = [path.stat().st_size for path in sorted(pieces.iterdir())]
    assert len(sizes) == 4
    assert max(sizes) <= PIECE
    unpack(pieces, tmp_path / "back")
    for path in (tmp_path / "folder").iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("missing", ["piece_000", "piece_002"])
def test_a_missing_piece_is_an_error(pieces, tmp_path, missing):
    (pieces / missing).unlink()
    with pytest.raises(InputError, match="carry the rest"):
        unpack(pieces, tmp_path / "back")


@pytest.mark.parametrize("piece", ["piece_001", "piece_003"])
def test_a_cut_piece_is_an_error(pieces, tmp_path, piece):
    path = pieces / piece
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="carry them again"):
        unpack(pieces, tmp_path / "back")
