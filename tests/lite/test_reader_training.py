"""The reader's training on a tiny data directory; its networks compute what torch does."""

import random
import sys

import numpy as np
import pytest
import torch

from autoglm.lite.reader import answers as reading
from autoglm.lite.reader.clues import tokenize
from autoglm.lite.reader.reader import Reader
from autoglm.lite.reader.requests import Asked
from autoglm.lite.reader.weights import READER_NAME, Network, TermTable
from autoglm.lite.reader_training import answers, questions
from autoglm.lite.reader_training.__main__ import main
from autoglm.lite.reader_training.made_questions import QuestionMaker
from autoglm.lite.reader_training.network import fit

RARE = TermTable(np.full(1024, 120, dtype=np.uint8), 0.05)
TEXT = "Ann opened the shop in 1984. She sold bread to Bob. The bread was good and cheap."


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A reader trained on the tiny data."""
    path = tmp_path_factory.mktemp("reader") / READER_NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", "--data", str(data_dir), "--out", str(path)])
        main()
    return path


def test_the_command_trains_all_parts_and_the_reader_reads_them(trained):
    reader = Reader.of_bundle(trained.parent)
    assert reader is not None
    assert reader.answer(Asked("intent", "", "book a table", {})) == "book table"
    assert reader.answer(Asked("summary", "Summarize", TEXT, {}))
    assert reader.answer(Asked("answer", "Who?", TEXT, {}))


def test_parts_are_trained_anew_to_the_same_bytes(trained, data_dir, tmp_path, monkeypatch):
    again = tmp_path / READER_NAME
    again.write_bytes(trained.read_bytes())
    parts = ("intents", "usage", "answers", "summaries")
    command = ["train", "--data", str(data_dir), "--out", str(again), "--only", *parts]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert again.read_bytes() == trained.read_bytes()


def test_the_pointer_scores_as_torch_does():
    rarity = TermTable(np.arange(1024, dtype=np.uint8), 0.05)
    item = questions.Question("When did Ann open it?", TEXT, "1984", TEXT.index("1984"))
    example = answers.example(item, rarity)
    assert example is not None
    assert TEXT[tokenize(TEXT).starts[example.first] :].startswith("1984")
    net, scaler = answers.fit([example] * 4, 2, 3)
    found = answers.tensors(net, scaler, "answer.en.0")
    for part, table in (("token", net.token), ("asked", net.asked)):
        plain = found[f"answer.en.0.{part}"] * found[f"answer.en.0.{part}.step"]
        table.weight.data = torch.from_numpy(plain.astype(np.float32))
    with torch.no_grad():
        wanted = net(*scaler.batch([example]))[0].numpy()
    pointer = reading._pointers(found, "answer.en")[0]
    states = pointer.states(tokenize(TEXT), item.question, rarity)
    # Features travel as halves in training.
    np.testing.assert_allclose(pointer.ends(states).T, wanted[:, :-1], atol=0.03)
    assert pointer.none(states) == pytest.approx(float(wanted[:, -1].sum()), abs=0.05)


def test_a_fitted_network_learns_and_reads_back():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4000, 5)).astype(np.float32)
    labels = torch.tensor(np.abs(features[:, 0]) - features[:, 3])

    def loss(outputs, rows):
        return ((outputs[:, 0] - labels[rows]) ** 2).mean()

    found = fit("n", features, loss, hidden=(16,), epochs=150, seed=1)
    scores = Network(found, "n").scores(features)[:, 0]
    assert np.corrcoef(scores, labels.numpy())[0, 1] > 0.9


def test_made_questions_lack_their_answer_and_point_at_it():
    text = (
        "It rained all day. The council of Eastbrook opened the new harbour in 1821 because trade"
        " with the islands was growing fast. It was designed by Thomas Whitfield, who sold 27"
        " boats by writing letters, and it became popular with sailors. Nobody left."
    )
    maker = QuestionMaker(RARE, random.Random(2))
    found = [item for _ in range(200) if (item := maker.make(text))]
    assert len(found) > 50
    assert len({item.answer for item in found}) > 8
    for item in found:
        assert text[item.start :].startswith(item.answer)
        assert item.question.endswith("?")


def test_made_questions_ask_by_the_kind_of_what_is_missing():
    text = (
        "The town lies on a river. In 1731 the potter Johann Kessler of Meissen built the first"
        " porcelain kiln of the valley with eleven apprentices. Most apprentices stayed for nine"
        " years, because roads to the harbour were unsafe. Nobody remembers it."
    )
    maker = QuestionMaker(RARE, random.Random(4))
    asked = [(item.answer, item.question.lower()) for _ in range(300) if (item := maker.make(text))]
    assert {"1731", "eleven", "nine years"} <= {answer for answer, _ in asked}
    counts = ["how" in question for answer, question in asked if answer == "nine years"]
    assert sum(counts) > len(counts) / 2
    assert maker.make("Too short.") is None
