"""The copying circuit works the moment it is set and survives training."""

import pytest
import torch

from autoglm.lite.induction import Gains, install
from autoglm.lite.model import LiteConfig, LiteModel
from autoglm.lite.optim import build_optimizers

CONFIG = LiteConfig(
    vocab_size=512,
    hidden_size=512,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=256,
    max_position=256,
)


def copying_accuracy(model):
    """Share of right next tokens in the second half of random ids said twice."""
    half = torch.randint(0, CONFIG.vocab_size, (2, 80), generator=torch.Generator().manual_seed(1))
    ids = half.repeat(1, 2)
    with torch.no_grad():
        best = model(ids).argmax(-1)
    return float((best[:, 80:-1] == ids[:, 81:]).float().mean())


@pytest.fixture
def model():
    return LiteModel(CONFIG, torch.Generator().manual_seed(2))


def test_an_untrained_model_copies_once_the_circuit_is_set(model):
    assert copying_accuracy(model) < 0.05
    install(model, Gains(), torch.Generator().manual_seed(3))
    assert copying_accuracy(model) > 0.5


def test_held_weights_are_bit_identical_after_updates(model):
    circuit = install(model, Gains(), torch.Generator().manual_seed(3))
    before = {name: view.clone() for name, view in circuit.values(model).items()}
    optimizers = build_optimizers(model, 0.01, 0.01, 0.1)
    model(torch.arange(64)[None]).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    circuit.hold(model, before)
    after = circuit.values(model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    written = circuit.reserved @ model.blocks[1].down.weight
    # float32 rounding of a projection
    assert written.abs().max() < 1e-5
