"""What compression does to the networks of conv_networks.py: size, accuracy, speed as a table.

All run on ONNX Runtime. Speeds are medians of rounds in which all take turns, one thread, one image
at a time. Losses come with 95 % intervals of the paired differences.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from resnet.images import Images, inputs, read_images

from autoglm.compression.graphs.pipeline import compress_graph
from autoglm.compression.graphs.runtime import open_session, run

NETWORKS = ("dense", "continued", "unstructured", "structured")
PLAIN, FUSED, INT8 = "as exported", "graph-fused", "graph-int8"
MIB = 2**20
PERCENT = 100.0
NORMAL_95 = 1.96
NUM_CALIBRATION = 256
BATCH = 250
ROUNDS = 31
RUNS_A_ROUND = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network. Losses are points of accuracy against the dense network in floats."""

    network: str
    recipe: str
    mib: float
    packed_mib: float
    accuracy: float
    loss: float
    loss_margin: float
    ms_an_image: float
    speedup: float


def right_answers(path: Path, images: Images) -> NDArray[np.bool_]:
    """Which images get their class."""
    session = open_session(ir.load(path))
    found = []
    for start in range(0, len(images.labels), BATCH):
        logits = run(session, {"images": inputs(images.pixels[start : start + BATCH])})[0]
        found.append(np.asarray(logits).argmax(1))
    right: NDArray[np.bool_] = np.concatenate(found) == images.labels
    return right


def milliseconds(paths: Sequence[Path], image: NDArray[np.float32]) -> list[float]:
    """The processor time of one image on each network, the median of interleaved rounds."""
    sessions = [open_session(ir.load(path)) for path in paths]
    times: list[list[float]] = [[] for _ in sessions]
    for round_number in range(ROUNDS + 1):
        for session, spent in zip(sessions, times, strict=True):
            start = time.thread_time()
            for _ in range(RUNS_A_ROUND):
                run(session, {"images": image})
            if round_number:
                spent.append((time.thread_time() - start) / RUNS_A_ROUND * 1e3)
    return [float(np.median(spent)) for spent in times]


def measured(directory: Path, work: Path, train: Images, test: Images) -> list[Row]:
    """All rows, the dense network as exported first."""
    calibration = work / "calibration.npy"
    step = len(train.labels) // NUM_CALIBRATION
    np.save(calibration, inputs(train.pixels[::step]))
    trained = [network for network in NETWORKS if (directory / f"{network}.onnx").exists()]
    names = [(network, recipe) for network in trained for recipe in (PLAIN, FUSED, INT8)]
    paths = []
    for network, recipe in names:
        path = directory / f"{network}.onnx"
        if recipe != PLAIN:
            made = compress_graph(
                path, recipe, out=work / f"{network}-{recipe}.onnx", calibration=calibration
            )
            path = made.path
        paths.append(path)
    speeds = milliseconds(paths, inputs(test.pixels[:1]))
    right = [right_answers(path, test).astype(np.float64) for path in paths]
    base = speeds[names.index(("dense", FUSED))]
    rows = []
    for (network, recipe), path, one, ms in zip(names, paths, right, speeds, strict=True):
        lost = right[0] - one
        rows.append(
            Row(
                network=network,
                recipe=recipe,
                mib=path.stat().st_size / MIB,
                packed_mib=len(zlib.compress(path.read_bytes(), 9)) / MIB,
                accuracy=PERCENT * one.mean(),
                loss=PERCENT * lost.mean(),
                loss_margin=PERCENT * NORMAL_95 * lost.std() / np.sqrt(len(lost)),
                ms_an_image=ms,
                speedup=base / ms,
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | recipe | MiB | zipped | accuracy, % | loss, points | ms an image | speed |",
        "|--|--|--|--|--|--|--|--|",
    ]
    lines += [
        f"| {row.network} | {row.recipe} | {row.mib:.2f} | {row.packed_mib:.2f} | "
        f"{row.accuracy:.2f} | {row.loss:+.2f} ± {row.loss_margin:.2f} | {row.ms_an_image:.3f} | "
        f"{row.speedup:.2f}x |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print and perhaps save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", metavar="DIR", type=Path, required=True)
    parser.add_argument("--train", metavar="TAR.ZST", type=Path, required=True)
    parser.add_argument("--test", metavar="TAR.ZST", type=Path, required=True)
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        train, test = read_images(args.train), read_images(args.test)
        rows = measured(args.networks, Path(work), train, test)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
