"""Train a residual network on CIFAR-10, then the same with 80 % zeros and with fewer channels.

Writes them as .pt and .onnx into --out; what is there is not trained again. A control is the dense
network with as many passes more as the smaller ones get. CIFAR-10 has no licence: its networks are
for measuring, not for shipping.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from resnet.images import SIZE, Images, read_images
from resnet.network import ResNet, Widths
from resnet.thinning import Zeros, num_zeros, thinned
from resnet.training import Schedule, accuracy, train

WHOLE = Widths(stream=(48, 96, 192), inner=(48, 96, 192))
# A multiple of 16 channels each, so that whole registers go; two thirds of the weights do.
SMALLER = Widths(stream=(32, 64, 128), inner=(32, 48, 96))
SPARSITY = 0.8


def dense(images: Images, epochs: int) -> ResNet:
    """The network that others are compared with."""
    torch.manual_seed(0)
    network: ResNet = ResNet(WHOLE).to(memory_format=torch.channels_last)
    train(network, images, Schedule(epochs=epochs, rate=0.2))
    return network


def unstructured(whole: ResNet, images: Images, epochs: int) -> ResNet:
    """Four fifths of all weights zero."""
    network = copy.deepcopy(whole)
    zeros = Zeros(network, SPARSITY, every=20)
    schedule = Schedule(epochs=epochs, rate=0.1, seed=1)
    train(network, images, schedule, teacher=whole, after_step=zeros)
    return network


def structured(whole: ResNet, images: Images, epochs: int) -> ResNet:
    """Fewer channels."""
    network: ResNet = thinned(whole, SMALLER, images).to(memory_format=torch.channels_last)
    train(network, images, Schedule(epochs=epochs, rate=0.1, seed=2), teacher=whole)
    return network


def continued(whole: ResNet, images: Images, epochs: int) -> ResNet:
    """The dense network, trained like the smaller ones."""
    network = copy.deepcopy(whole)
    train(network, images, Schedule(epochs=epochs, rate=0.1, seed=3), teacher=whole)
    return network


def save_onnx(network: ResNet, path: Path) -> None:
    """The network as it is, normalisations apart, for any number of images."""
    example = torch.zeros(2, 3, SIZE, SIZE)
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        network.eval(),
        (example,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        optimize=False,
        external_data=False,
        verbose=False,
    )


def main() -> int:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--train", metavar="TAR.ZST", type=Path, required=True)
    parser.add_argument("--test", metavar="TAR.ZST", type=Path, required=True)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6, help="of the dense network")
    parser.add_argument("--recovery-epochs", type=int, default=4, help="of each smaller one")
    parser.add_argument("--images", type=int, default=50_000, help="at most, to train with")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    images, held_out = read_images(args.train), read_images(args.test)
    images = Images(
        images.pixels[:: 50_000 // args.images], images.labels[:: 50_000 // args.images]
    )
    whole = ResNet(WHOLE)
    recoveries = {
        "structured": structured,
        "unstructured": unstructured,
        "continued": continued,
    }
    for name in ("dense", *recoveries):
        path = args.out / f"{name}.pt"
        if path.exists():
            network = ResNet(SMALLER if name == "structured" else WHOLE)
            network.load_state_dict(torch.load(path, weights_only=True))
        else:
            if name == "dense":
                network = dense(images, args.epochs)
            else:
                network = recoveries[name](whole, images, args.recovery_epochs)
            torch.save(network.state_dict(), path)
        network.eval()
        if name == "dense":
            whole = network.to(memory_format=torch.channels_last)
        save_onnx(network, args.out / f"{name}.onnx")
        zeros, weights = num_zeros(network)
        print(
            json.dumps(
                {
                    "network": name,
                    "accuracy": accuracy(network, held_out),
                    "weights": weights,
                    "zeros": zeros,
                }
            ),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
