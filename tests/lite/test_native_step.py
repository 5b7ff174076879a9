"""The AMX kernels: gradients as exact as autograd under bf16, the same bits for any threads."""

import pytest
import torch

from autoglm.errors import InvalidRequestError
from autoglm.lite import native_ops
from autoglm.lite.gradients import StepOptions, TorchStep, choose_step
from autoglm.lite.model import LiteConfig, LiteModel
from autoglm.lite.native_ops import load_kernels
from autoglm.lite.native_step import NativeStep
from autoglm.lite.optim import orthogonalise

CONFIG = LiteConfig(
    vocab_size=1024,
    hidden_size=256,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=320,
    max_position=256,
)
ROWS, TOKENS = 3, 160
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    found = load_kernels(tmp_path_factory.mktemp("kernels"))
    assert found is not None
    return found


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(0, CONFIG.vocab_size, (ROWS, TOKENS), generator=generator)
    targets = torch.randint(0, CONFIG.vocab_size, (ROWS, TOKENS), generator=generator)
    targets[0, :50] = -1
    targets[2, 70:] = -1
    return ids, targets


def make_model():
    model = LiteModel(CONFIG, torch.Generator().manual_seed(7))
    with torch.no_grad():
        for block in model.blocks:
            block.input_norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(8))
    return model


def gradients_of(model, step, batch, autocast=True):
    ids, targets = batch
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    scale = 1.0 / max(1, int((targets >= 0).sum()))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        total = step.add_gradients(ids, targets, scale=scale, z_coefficient=1e-3)
    return float(total) * scale, [parameter.grad.clone() for parameter in model.parameters()]


def exact_gradients(model, batch):
    ids, targets = batch
    logits = model(ids).flatten(0, 1)
    flat = targets.flatten()
    loss = torch.nn.functional.cross_entropy(logits, flat, ignore_index=-1)
    loss = loss + 1e-3 * torch.logsumexp(logits, -1)[flat >= 0].square().mean()
    return float(loss.detach()), torch.autograd.grad(loss, list(model.parameters()))


def error(found, exact):
    return float((found - exact).norm() / exact.norm())


def test_loss_and_gradients_are_as_exact_as_autograd_under_bf16(kernels, batch):
    model = make_model()
    loss, exact = exact_gradients(model, batch)
    plain_loss, plain = gradients_of(model, TorchStep(model, CPU, use_compile=False), batch)
    found_loss, found = gradients_of(model, NativeStep(model, ROWS, TOKENS, kernels), batch)
    # bf16 keeps 8 bits: both ways are off by its rounding, ours by no more than torch's
    assert abs(found_loss - loss) < max(2 * abs(plain_loss - loss), 2e-3)
    for ours, theirs, wanted in zip(found, plain, exact, strict=True):
        assert error(ours, wanted) < 1.2 * error(theirs, wanted) + 1e-3


def test_gradients_have_the_same_bits_for_one_thread_and_two(kernels, batch):
    model = make_model()
    step = NativeStep(model, ROWS, TOKENS, kernels)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        _, one = gradients_of(model, step, batch)
        torch.set_num_threads(2)
        _, two = gradients_of(model, step, batch)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_rows_without_any_target_add_nothing(kernels, batch):
    model = make_model()
    ids, targets = batch
    loss, found = gradients_of(
        model, NativeStep(model, ROWS, TOKENS, kernels), (ids, torch.full_like(targets, -1))
    )
    assert loss == 0.0
    assert all(not gradient.any() for gradient in found)


def test_changed_weights_count_after_a_refresh(kernels, batch):
    model = make_model()
    step = NativeStep(model, ROWS, TOKENS, kernels)
    before, _ = gradients_of(model, step, batch)
    with torch.no_grad():
        model.blocks[0].qkv.weight.mul_(3.0)
    step.refresh()
    after, _ = gradients_of(model, step, batch)
    assert after == pytest.approx(exact_gradients(model, batch)[0], rel=2e-3)
    assert after != before


def test_orthogonalised_matrices_are_those_of_torch(kernels):
    matrices = torch.randn(2, 64, 160, generator=torch.Generator().manual_seed(9))
    found = NativeStep(make_model(), ROWS, TOKENS, kernels).orthogonalise(matrices.bfloat16())
    wanted = orthogonalise(matrices)
    # five rounds in bf16, the polynomial rounded once instead of twice
    assert error(found.float(), wanted.float()) < 0.05
    values = torch.linalg.svdvals(found.float())
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_a_shape_the_tiles_do_not_divide_is_refused(kernels):
    with pytest.raises(InvalidRequestError, match="multiples of 32"):
        NativeStep(make_model(), ROWS, 100, kernels)


def test_without_a_compiler_training_falls_back_to_torch(monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(native_ops.shutil, "which", lambda name: None)
    step = choose_step(make_model(), CPU, StepOptions(1, 32, use_compile=False))
    assert step.name == "torch cpu"


def test_sources_that_do_not_compile_fall_back_to_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    assert load_kernels(tmp_path) is None
