"""CIFAR-10 from archives of JPEG files, `train/CLASS/NAME.jpg`, and batches of it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 32
_PADDING = 4
_MEAN = np.array([125.3, 123.0, 113.9], np.float32)
_DEVIATION = np.array([63.0, 62.1, 66.7], np.float32)


@dataclass(frozen=True, slots=True)
class Images:
    """Pixels [num_images, 32, 32, 3] and the number of each image's class."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_images(archive: Path) -> Images:
    """All images of a `.tar.zst`, in the order of their names; classes in alphabetical order."""
    import zstandard
    from PIL import Image

    pixels: dict[str, NDArray[np.uint8]] = {}
    with archive.open("rb") as file:
        stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                data = tar.extractfile(member) if member.name.endswith(".jpg") else None
                if data is not None:
                    image = Image.open(io.BytesIO(data.read())).convert("RGB")
                    pixels[member.name] = np.asarray(image, np.uint8)
    names = sorted(pixels)
    classes = sorted({name.split("/")[-2] for name in names})
    labels = np.array([classes.index(name.split("/")[-2]) for name in names], np.int64)
    return Images(np.stack([pixels[name] for name in names]), labels)


def inputs(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network reads, [num_images, 3, 32, 32] of mean zero and deviation one."""
    normed = (pixels.astype(np.float32) - _MEAN) / _DEVIATION
    return np.ascontiguousarray(normed.transpose(0, 3, 1, 2))


def varied(
    images: Images, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Batches of a pass in random order, shifted by up to 4 pixels, half of them mirrored."""
    margins = ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0))
    order = rng.permutation(len(images.labels))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        padded = np.pad(images.pixels[chosen], margins, mode="reflect")
        rows, cols = rng.integers(0, 2 * _PADDING + 1, (2, batch_size, 1)) + np.arange(SIZE)
        is_mirrored = rng.integers(0, 2, (batch_size, 1)) == 1
        cols = np.where(is_mirrored, cols[:, ::-1], cols)
        at = np.arange(batch_size)[:, None, None]
        yield inputs(padded[at, rows[:, :, None], cols[:, None, :]]), images.labels[chosen]
