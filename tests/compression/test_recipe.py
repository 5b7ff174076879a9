"""A recipe is data: every key is checked, and the wrong one is named."""

import re
from pathlib import Path

import pytest

from autoglm.compression.recipe import load_recipe, parse_recipe, recipe_names
from autoglm.errors import InputError, UsageError

SHIPPED = (
    "int8-dynamic",
    "int8-per-tensor",
    "prune-2-4",
    "prune-block-50",
    "prune-structured-30",
    "prune-structured-60",
    "prune-unstructured-50",
    "prune-unstructured-80",
    "w3",
    "w4a8",
    "w4a8-gptq",
    "w8a8-smooth",
)


def test_shipped_recipes_are_there():
    assert set(SHIPPED) <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_is_valid_and_says_what_it_does(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_keys_of_a_file_are_what_is_done(recipe):
    made = load_recipe(
        recipe(
            'weights = "int3"\nmethod = "gptq"\nscaling = "awq"\nactivation_bits = 8\n'
            'passes = ["default", "fold-norm-gain"]\n'
            '[formats]\n"*.attn.o" = "bf16"\n[calibration]\nnum_sequences = 4\n'
        )
    )
    assert (made.weights, made.method, made.scaling) == ("int3", "gptq", "awq")
    assert made.passes[-1] == "fold-norm-gain"
    assert made.formats == {"*.attn.o": "bf16"}
    assert (made.calibration.num_sequences, made.calibration.sequence_tokens) == (4, 512)
    assert made.needs_calibration


def test_recipe_of_the_documentation_is_valid():
    page = (Path(__file__).parents[2] / "docs/compression.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert [parse_recipe("page", block).weights for block in blocks] == ["int4"]


BROKEN = {
    "unknown key": ('weights = "int8"\nspeed = 1', "unknown key 'speed'"),
    "unknown key of a table": (
        'weights = "int8"\n[calibration]\ntokens = 1',
        "'calibration': unknown key 'tokens'",
    ),
    "no weights": ("symmetric = true", "'weights' is missing"),
    "unknown format": ('weights = "int5"', "'weights' is 'int5', expected one of fp32"),
    "wrong type": ('weights = "int8"\nactivation_bits = "8"', "'activation_bits' is '8'"),
    "number of bits": ('weights = "int8"\nactivation_bits = 12', "'activation_bits' is 12"),
    "unknown pass": ('weights = "int8"\npasses = ["fuse"]', "'passes' is"),
    "unknown format of a matrix": (
        'weights = "int4"\n[formats]\n"*.o" = "int2"',
        r"'formats': '\*.o' is 'int2'",
    ),
    "one scale for groups": ('weights = "int4"\ngranularity = "tensor"', "'granularity'"),
    "GPTQ of floats": ('weights = "bf16"\nmethod = "gptq"', "'method' and 'scaling'"),
    "coarse GPTQ": ('weights = "int8"\ngranularity = "tensor"\nmethod = "gptq"', "'granularity'"),
    "share of zeros": (
        'weights = "int8"\n[pruning]\nmethod = "wanda"\nsparsity = 1.5',
        "'pruning': 'sparsity' is 1.5",
    ),
    "no share of zeros": (
        'weights = "int8"\n[pruning]\nmethod = "wanda"',
        "'sparsity' is missing",
    ),
    "another share than the pattern's": (
        'weights = "int8"\n[pruning]\nmethod = "wanda"\npattern = "2:4"\nsparsity = 0.6',
        "'sparsity' is 0.6, expected 0.5",
    ),
    "pruning undone": (
        'weights = "int8"\nmethod = "gptq"\n[pruning]\nmethod = "wanda"\nsparsity = 0.5',
        "would fill the zeros",
    ),
    "no learning": ('weights = "int8"\n[recovery]\nrate = 0', "'recovery': 'rate' is 0"),
    "too much text": ('weights = "int8"\n[calibration]\nnum_sequences = 0', "'num_sequences' is 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_recipe_is_refused_with_the_key(name):
    text, message = BROKEN[name]
    with pytest.raises(UsageError, match=message):
        parse_recipe("mine", text)


def test_what_is_no_toml_is_refused():
    with pytest.raises(InputError, match="recipe mine: is not valid TOML"):
        parse_recipe("mine", "weights = ")


def test_unknown_name_lists_the_known():
    with pytest.raises(UsageError, match=r"no recipe 'w5'; use a file \*\.toml or one of int8"):
        load_recipe("w5")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: no such file"):
        load_recipe(tmp_path / "none.toml")
