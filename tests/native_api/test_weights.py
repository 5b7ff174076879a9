"""Every way a tensor table or configuration can disagree with the model ends in a typed error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.native_api.tiny_model import TensorRow, TinyModel, build, native_config

from autoglm import _core

MODEL_FILE, CONFIG, IO = 101, 201, 601
QKV = "model.layers.0.attn.qkv.weight"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build(tmp_path_factory.mktemp("model") / "model", weights="int8")


def load_error(model: TinyModel, table: list[TensorRow]) -> tuple[int, str]:
    with pytest.raises(_core.CoreError) as caught:
        _core.Model(model.config, [str(model.path)], table)
    return caught.value.args


def changed(model: TinyModel, target: str, fields: dict[str, object]) -> list[TensorRow]:
    """The table with the fields of one row replaced."""
    names = ("name", "dtype", "shape", "file_index", "offset", "num_bytes")

    def change(row: TensorRow) -> TensorRow:
        return tuple(fields.get(key, value) for key, value in zip(names, row, strict=True))

    return [change(row) if row[0] == target else row for row in model.table]


def row(model: TinyModel, name: str) -> TensorRow:
    return next(entry for entry in model.table if entry[0] == name)


def test_the_table_counts_its_bytes(model: TinyModel) -> None:
    assert model.load().weights_bytes == sum(entry[5] for entry in model.table)


@pytest.mark.parametrize("name", [QKV, "model.layers.1.mlp.down.scale", NORM, "lm_head.weight"])
def test_a_missing_tensor_is_named(model: TinyModel, name: str) -> None:
    table = [entry for entry in model.table if entry[0] != name]
    assert load_error(model, table) == (MODEL_FILE, f"tensor '{name}' is missing")


EDITS: dict[str, tuple[Callable[[TensorRow], dict[str, object]], str]] = {
    "dtype": (lambda _: {"dtype": "F64"}, "has type F64"),
    "dtype_of_another_format": (lambda _: {"dtype": "U8"}, "has shape"),
    "shape": (lambda entry: {"shape": [*entry[2][:-1], 3]}, "has shape"),
    "negative_shape": (lambda entry: {"shape": [-entry[2][0], *entry[2][1:]]}, "has shape"),
    "rank": (lambda entry: {"shape": [*entry[2], 1]}, "has shape"),
    "size": (lambda entry: {"num_bytes": entry[5] - 64}, "its shape needs"),
    "misaligned": (lambda entry: {"offset": entry[4] + 4}, "not a multiple of 64"),
    "beyond_the_end": (lambda _: {"offset": 1 << 40}, "the file has"),
    "wrapping_size": (lambda _: {"num_bytes": 2**64 - 64}, "the file has"),
    "file_index": (lambda _: {"file_index": 1}, "lies in file 1 of 1"),
    "negative_file_index": (lambda _: {"file_index": -1}, "lies in file -1 of 1"),
    "renamed": (lambda _: {"name": "surprise"}, "missing"),
    "overlapping": (lambda _: {"offset": 0}, "overlaps"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_wrong_tensor_is_refused(model: TinyModel, edit: str) -> None:
    fields, wanted = EDITS[edit]
    code, message = load_error(model, changed(model, QKV, fields(row(model, QKV))))
    assert (code, wanted in message) == (MODEL_FILE, True), message


def test_an_unknown_tensor_is_refused(model: TinyModel) -> None:
    extra = ("surprise", "F32", [0], 0, 0, 0)
    assert load_error(model, [*model.table, extra])[1].startswith("tensor 'surprise'")


def test_a_tensor_listed_twice_is_refused(model: TinyModel) -> None:
    assert "appears twice" in load_error(model, [*model.table, row(model, NORM)])[1]


def test_a_missing_file_is_an_input_output_error(model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(_core.CoreError) as caught:
        _core.Model(model.config, [str(tmp_path / "nothing")], model.table)
    assert caught.value.args[0] == IO


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 0),
        ("hidden_size", 2**31 - 1),
        ("num_layers", 513),
        ("num_heads", 3),
        ("num_kv_heads", 0),
        ("head_dim", 9),
        ("intermediate_size", 131073),
        ("rms_norm_eps", -1.0),
        ("rotary_dim", 12),
        ("inv_freq", [1.0]),
        ("inv_freq", [1.0, float("inf"), 1.0]),
        ("rope_scale", 0.0),
        ("max_position", 0),
        ("num_experts", -1),
    ],
)
def test_a_configuration_out_of_bounds_is_refused(
    model: TinyModel, name: str, value: object
) -> None:
    config = native_config(model.shape)
    setattr(config, name, value)
    with pytest.raises(_core.CoreError) as caught:
        _core.Model(config, [str(model.path)], model.table)
    assert caught.value.args[0] == CONFIG


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("moe_intermediate_size", 0),
        ("num_experts_per_tok", 5),
        ("n_group", 3),
        ("topk_group", 3),
        ("first_k_dense", 9),
        ("sandwich_norms", True),
    ],
)
def test_a_mixture_out_of_bounds_is_refused(tmp_path: Path, name: str, value: int | bool) -> None:
    model = build(tmp_path / "model", num_experts=8)
    setattr(model.config, name, value)
    with pytest.raises(_core.CoreError) as caught:
        model.load()
    assert caught.value.args[0] == CONFIG
