"""Packing: rows are full, masks cover answers only, nothing from other splits gets in."""

import json
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from autoglm.lite import pack
from autoglm.lite.sources import TEXT_SOURCES, clean_line, read_documents, read_records

ROW = 256


def run_pack(monkeypatch, data_dir, tokenizer_file, out, *options):
    arguments = ["pack", "--data", str(data_dir), "--tokenizer", str(tokenizer_file)]
    arguments += ["--out", str(out), "--rows", "12", "--row-tokens", str(ROW), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    pack.main()
    tokens = np.fromfile(out / "tokens_000.bin", dtype=np.uint16).reshape(-1, ROW)
    mask = np.fromfile(out / "mask_000.bin", dtype=np.uint8).reshape(-1, ROW)
    return tokens, mask


def test_rows_are_the_same_for_the_same_seed(monkeypatch, data_dir, tokenizer_file, tmp_path):
    one, _ = run_pack(monkeypatch, data_dir, tokenizer_file, tmp_path / "a")
    two, _ = run_pack(monkeypatch, data_dir, tokenizer_file, tmp_path / "b")
    assert one.shape == (12, ROW)
    assert np.array_equal(one, two)


def test_answer_loss_counts_from_after_the_assistant_line(
    monkeypatch, data_dir, tokenizer_file, tmp_path
):
    tokens, mask = run_pack(
        monkeypatch, data_dir, tokenizer_file, tmp_path, "--answer-loss", "--text-rows", "0"
    )
    assistant = Tokenizer.from_file(str(tokenizer_file)).token_to_id("<|assistant|>")
    starts = np.argwhere((mask[:, 1:] == 1) & (mask[:, :-1] == 0))
    assert len(starts) > 0
    assert all(tokens[row, column - 1] == assistant for row, column in starts)


def test_card_names_the_licence_of_every_source(monkeypatch, data_dir, tokenizer_file, tmp_path):
    tokens, _ = run_pack(monkeypatch, data_dir, tokenizer_file, tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert sum(source["tokens"] for source in card["sources"]) == tokens.size
    assert all(len(source["licence"]) == 2 for source in card["sources"])


@pytest.mark.parametrize("name", ["clinc150", "banking77"])
def test_only_the_training_split_is_read(data_dir, name):
    assert {record["split"] for record in read_records(data_dir, name)} == {"train"}


def test_held_out_documents_and_the_rest_do_not_overlap(data_dir):
    source = TEXT_SOURCES[0]
    seen = set(read_documents(data_dir, source))
    held_out = set(read_documents(data_dir, source, held_out=True))
    assert seen
    assert not seen & held_out


def test_clean_line_undoes_tokenised_english_and_markers():
    line = "Well , it 's {disfmarker} fine . [laughs] See https://example.org/x"
    assert clean_line(line) == "Well, it's fine. See"
