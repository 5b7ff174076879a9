"""Training after pruning on the AMX kernels: the gradients of torch, for the models that fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import autoglm
from autoglm.compression.recipe import parse_recipe
from autoglm.errors import UsageError
from autoglm.lite.export import hf_tensors
from autoglm.lite.model import LiteConfig, LiteModel
from autoglm.recovery import native, training
from autoglm.recovery.floats import FloatModel, read_floats
from autoglm.recovery.lesson import TorchLesson
from autoglm.recovery.native import NativeLesson, choose_lesson
from autoglm.recovery.network import Network
from autoglm.recovery.pipeline import compress_and_recover

CONFIG = LiteConfig(
    vocab_size=64,
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    max_position=256,
)
SHAPE = (2, 64)
HALF = (
    'weights = "fp32"\n[pruning]\nmethod = "magnitude"\nsparsity = 0.5\n'
    "[calibration]\nsequence_tokens = 64\n[recovery]\nlabel_share = 0.25\nbatch_tokens = 128\n"
)


def write_model(path, tokenizer, seed, config=CONFIG):
    model = LiteModel(config, torch.Generator().manual_seed(seed))
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config.to_hf() | {"eos_token_id": 2}))
    (path / "tokenizer.json").write_bytes(tokenizer)
    save_file(hf_tensors(model, torch.float32), path / "model.safetensors")
    return path


@pytest.fixture
def checkpoint(parts, source, tmp_path):
    return write_model(tmp_path / "checkpoint", parts.files["tokenizer.json"], 4)


@pytest.fixture(params=["whole", "thin"])
def pair(request, checkpoint, parts, source, recipe, tmp_path):
    """A student, of the same shape or with fewer heads and channels, and its teacher."""
    thin = replace(CONFIG, num_heads=2, num_kv_heads=1, intermediate_size=64)
    config = thin if request.param == "thin" else CONFIG
    student = write_model(tmp_path / "student", parts.files["tokenizer.json"], 5, config)
    models = []
    for path in (student, checkpoint):
        autoglm.compress(path, recipe('weights = "fp32"\n'), out=tmp_path / f"{path.name}-floats")
        models.append(read_floats(tmp_path / f"{path.name}-floats"))
    return models


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(6)
    ids, targets = (torch.randint(0, 64, SHAPE, generator=rng) for _ in range(2))
    targets[0, :40] = -1
    return ids, targets


def gradients_of(lesson, batch):
    for parameter in lesson.parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    loss = lesson.add_gradients(*batch)
    return loss, {name: p.grad.numpy() for name, p in lesson.parameters().items()}


def exact(student, teacher, batch, share):
    """Loss and gradients in float32, from whole logits."""
    own, whole = (Network(model.config, model.tensors) for model in (student, teacher))
    counted = batch[1] >= 0
    found = torch.log_softmax(own(batch[0])[counted], -1)
    wanted = torch.log_softmax(whole(batch[0])[counted], -1).detach()
    apart = torch.nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean")
    labels = torch.nn.functional.nll_loss(found, batch[1][counted])
    loss = (1.0 - share) * apart + share * labels
    names = own.named()
    slopes = torch.autograd.grad(loss, list(names.values()))
    return float(loss.detach()), dict(zip(names, slopes, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_loss_and_gradients_are_as_exact_as_those_of_torch(pair, batch, share):
    lesson = choose_lesson(*pair, SHAPE, share)
    assert lesson.name == "native"
    wanted_loss, wanted = exact(*pair, batch, share)
    plain_loss, plain = gradients_of(TorchLesson(*pair, share), batch)
    loss, found = gradients_of(lesson, batch)
    assert abs(loss - wanted_loss) < max(2 * abs(plain_loss - wanted_loss), 2e-3)
    for name, slope in wanted.items():
        goal = slope.numpy()
        size = np.linalg.norm(goal)
        ours = np.linalg.norm(found[name] - lesson.arranged(name, goal)) / size
        assert ours < 1.2 * np.linalg.norm(plain[name] - goal) / size + 2e-3, name


def test_tensors_come_back_in_the_order_of_the_bundle(pair):
    student = pair[0]
    found = choose_lesson(*pair, SHAPE, 0.0).tensors()
    assert found.keys() == student.tensors.keys()
    for name, values in student.tensors.items():
        assert np.array_equal(found[name], values)


def test_models_and_batches_that_do_not_fit_are_trained_by_torch(pair, monkeypatch):
    student, teacher = pair
    qkv = "model.layers.0.attn.qkv"
    biased = FloatModel(student.arch, student.tensors | {f"{qkv}.bias": np.zeros(256, np.float32)})
    assert choose_lesson(biased, teacher, SHAPE, 0.0).name == "torch"
    assert choose_lesson(student, teacher, (2, 50), 0.0).name == "torch"
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    assert choose_lesson(student, teacher, SHAPE, 0.0).name == "torch"


def test_recovery_trains_natively_and_keeps_the_zeros(
    checkpoint, text, recipe, tmp_path, monkeypatch
):
    losses = []
    plain = NativeLesson.add_gradients

    def note(self, ids, targets):
        losses.append(plain(self, ids, targets))
        return losses[-1]

    monkeypatch.setattr(NativeLesson, "add_gradients", note)
    mine = recipe(HALF)
    compress_and_recover(checkpoint, mine, out=tmp_path / "out", calibration=text, steps=60)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    down = read_floats(tmp_path / "out").tensors["model.layers.1.mlp.down"]
    assert ((down == 0).sum(axis=1) == down.shape[1] // 2).all()


def test_interrupted_training_ends_in_the_same_bytes(
    checkpoint, text, recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "_SAVE_EVERY", 2)
    mine = recipe(HALF)
    options = {"calibration": text, "steps": 5}
    compress_and_recover(checkpoint, mine, out=tmp_path / "whole", **options)

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "recovering" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_and_recover(checkpoint, mine, out=tmp_path / "out", **options, progress=stop)
    compress_and_recover(checkpoint, mine, out=tmp_path / "out", **options)
    first, second = (tmp_path / name / "model.safetensors" for name in ("whole", "out"))
    assert first.read_bytes() == second.read_bytes()


def test_a_state_of_the_other_way_is_begun_anew(pair, tmp_path):
    lesson = choose_lesson(*pair, SHAPE, 0.0)
    optimizer = torch.optim.AdamW(list(lesson.parameters().values()))
    state = tmp_path / "state.pt"
    training._save(lesson, optimizer, 3, state)
    assert training._restored(lesson, optimizer, state) == 3
    assert training._restored(TorchLesson(*pair, 0.0), optimizer, state) == 0


@pytest.mark.parametrize(
    "entry", ["rate = 0.2", "batch_tokens = 0", "label_share = 1.5", "labels = 1"]
)
def test_options_that_cannot_be_are_refused_by_name(entry):
    with pytest.raises(UsageError, match=entry.partition(" ")[0]):
        parse_recipe("mine", f'weights = "int8"\n[recovery]\n{entry}\n')
