"""The networks of `make bench-conv`: idle channels leave no trace, zeros come in exact numbers."""

import numpy as np
import torch
from resnet.images import Images
from resnet.network import ResNet, Widths
from resnet.thinning import Zeros, num_zeros, thinned

WHOLE = Widths(stream=(8, 12, 16), inner=(6, 8, 10))


def network() -> ResNet:
    torch.manual_seed(0)
    made = ResNet(WHOLE)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.bias)
    return made.eval()


def images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    return Images(pixels, np.zeros(16, np.int64))


def logits(model: ResNet) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def test_network_of_the_same_widths_is_the_same():
    whole = network()
    assert torch.equal(logits(thinned(whole, WHOLE, images())), logits(whole))


def test_channels_that_nothing_reads_go_without_a_trace():
    whole = network()
    with torch.no_grad():
        first, second, _ = whole.blocks
        for weights in (first.conv1.weight, second.conv1.weight, second.past[0].weight):
            weights[:, 1::2] = 0.0
        second.conv2.weight[:, :3] = 0.0
        whole.head.weight[:, 5:7] = 0.0
    smaller = thinned(whole, Widths(stream=(4, 12, 14), inner=(6, 5, 10)), images())
    assert smaller.blocks[1].conv2.weight.shape == (12, 5, 3, 3)
    assert torch.allclose(logits(smaller), logits(whole), atol=1e-5)


def test_zeros_grow_to_their_exact_share():
    model = network()
    zeros = Zeros(model, 0.8, every=2)
    shares = []
    for step in range(1, 11):
        zeros(step / 10)
        count, total = num_zeros(model)
        shares.append(count / total)
    assert shares == sorted(shares)
    assert count == round(0.8 * total)
