"""Formats under a limit: what costs most gets bits first, and the file is never larger."""

import json
from pathlib import Path

import numpy as np
import pytest

import autoglm
from autoglm.compression.budget import chosen_formats
from autoglm.errors import UsageError
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.layout import Matrix, Rows
from autoglm.modelfile.safetensors_writer import file_bytes

PLAIN = 'weights = "int4"\n'
WEIGHTS = "model.safetensors"


def matrix(name: str) -> Matrix:
    return Matrix(name, 256, ((Rows(name, (64, 256), 0, 64),),), "int4")


def size(*tensors: Matrix) -> int:
    return file_bytes([spec for tensor in tensors for spec in tensor.parts()])


def test_the_step_of_most_error_a_byte_comes_first():
    tensors = (matrix("a"), matrix("b"))
    errors = {
        **{("a", kind): error for kind, error in (("int4", 0.2), ("int8", 0.1), ("bf16", 0.0))},
        **{("b", kind): error for kind, error in (("int4", 0.9), ("int8", 0.01), ("bf16", 0.0))},
    }
    assert chosen_formats(tensors, errors, size(*tensors)) == {}
    room = size(*tensors) + 64 * 256 // 2 + 1024
    assert chosen_formats(tensors, errors, room) == {"b": "int8"}
    room += 64 * 256 // 2
    assert chosen_formats(tensors, errors, room) == {"a": "int8", "b": "int8"}
    assert chosen_formats(tensors, errors, 1 << 20) == {"a": "bf16", "b": "bf16"}


def test_step_that_does_not_fit_makes_room_for_a_smaller_one():
    wide = Matrix("wide", 4096, ((Rows("wide", (64, 4096), 0, 64),),), "int4")
    errors = {
        **{("wide", kind): error for kind, error in (("int4", 90.0), ("int8", 0.1), ("bf16", 0.0))},
        **{("a", kind): error for kind, error in (("int4", 0.2), ("int8", 0.1), ("bf16", 0.1))},
    }
    tensors = (wide, matrix("a"))
    room = size(*tensors) + 64 * 256 // 2 + 1024
    assert chosen_formats(tensors, errors, room) == {"a": "int8"}


def test_three_bits_are_the_lowest_step():
    low = Matrix("low", 256, ((Rows("low", (64, 256), 0, 64),),), "int3")
    kinds = (("int3", 0.9), ("int4", 0.2), ("int8", 0.1), ("bf16", 0.0))
    errors = {("low", kind): error for kind, error in kinds}
    assert chosen_formats((low,), errors, size(low)) == {}
    assert chosen_formats((low,), errors, size(low) + 64 * 256 // 8) == {"low": "int4"}
    assert chosen_formats((low,), errors, 1 << 20) == {"low": "bf16"}


@pytest.fixture
def smallest(source: Path, recipe, tmp_path: Path) -> float:
    """MiB of the bundle without a budget."""
    made = autoglm.compress(source, recipe(PLAIN), out=tmp_path / "smallest")
    return made.weights_bytes / 2**20


def test_matrix_that_rounding_hurts_gets_more_bits(parts, source, text, recipe, tmp_path, smallest):
    # One column of the values dwarfs the others, so four bits leave nothing of them.
    parts.tensors["model.layers.1.mlp.down_proj.weight"][:, 3] *= 50.0
    parts.write(source)
    room = smallest + 0.0025
    made = autoglm.compress(
        source, recipe(PLAIN), out=tmp_path / "out", calibration=text, budget_mib=room
    )
    assert made.weights_bytes <= room * 2**20
    assert "model.layers.1.mlp.down" in open_bundle(tmp_path / "out").packing.formats
    assert b"Formats chosen within" in (tmp_path / "out/recipe.toml").read_bytes()


def test_more_room_never_makes_it_worse(source, text, recipe, tmp_path, smallest):
    sizes = []
    for number, extra in enumerate((0.0, 0.01, 0.05, 1.0)):
        out = tmp_path / f"out{number}"
        room = smallest + extra
        autoglm.compress(source, recipe(PLAIN), out=out, calibration=text, budget_mib=room)
        sizes.append((out / WEIGHTS).stat().st_size)
        assert sizes[-1] <= room * 2**20
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    config = json.loads((tmp_path / "out3/config.json").read_text())
    assert set(config["quantization_config"]["formats"].values()) == {"bf16"}


def test_what_a_budget_cannot_mean_is_refused(source, text, recipe, tmp_path, smallest):
    options = {"out": tmp_path / "o", "calibration": text}
    with pytest.raises(UsageError, match=r"too small; this recipe needs"):
        autoglm.compress(source, recipe(PLAIN), **options, budget_mib=smallest / 2)
    with pytest.raises(UsageError, match="a budget looks at activations"):
        autoglm.compress(source, recipe(PLAIN), out=tmp_path / "o", budget_mib=9)
    with pytest.raises(UsageError, match="removes weights"):
        autoglm.compress(source, "prune-2-4", **options, budget_mib=9)
    assert not np.any([path.name == "o" for path in tmp_path.iterdir()])
