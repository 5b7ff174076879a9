"""A recipe: what `autoglm compress` does to a model, as a TOML file whose every key is checked.

Shipped recipes lie in `recipes/`; docs/compression.md explains the keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from autoglm.compression.codes import Granularity
from autoglm.compression.pruning import Pattern, Pruning, PruningMethod
from autoglm.compression.structure import Structure
from autoglm.errors import InputError, ModelConfigError, UsageError
from autoglm.inputs.text import read_text
from autoglm.modelfile.arch import INTEGER_FORMATS, WEIGHT_FORMATS, WeightFormat
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.passes import DEFAULT_PASSES, PASS_NAMES

Method = Literal["rtn", "gptq"]
Scaling = Literal["none", "awq", "smoothquant"]
Activations = Literal["dynamic", "static"]
Name = TypeVar("Name", bound=str)

RECIPES = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 64 << 10
_KEYS = (
    "description",
    "weights",
    "granularity",
    "symmetric",
    "method",
    "scaling",
    "smoothing",
    "activation_bits",
    "activations",
    "input_scales",
    "passes",
    "formats",
    "pruning",
    "structure",
    "calibration",
    "recovery",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSize:
    """How much of the calibration text is read."""

    num_sequences: int = 32
    sequence_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How the model is trained after pruning.

    `rate` is the highest learning rate, `batch_tokens` the tokens of a step, `label_share` how much
    of the loss is the text's own next token instead of the whole model's probabilities.
    """

    rate: float = 5e-4
    batch_tokens: int = 2048
    label_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`text` is the TOML it came from; the other fields are its keys.

    `granularity` is how many weights share an int8 scale; codes that are not `symmetric` have an
    offset for every 64 columns. "static" `activations` are rounded on ranges that calibration has
    found, "dynamic" ones by the largest value of each token. `input_scales` allows scales of the
    inputs of `attn.o` and `mlp.down` (see inputs.py).
    """

    name: str
    text: str
    description: str
    weights: WeightFormat
    granularity: Granularity
    symmetric: bool
    method: Method
    scaling: Scaling
    smoothing: float
    activation_bits: int
    activations: Activations
    input_scales: bool
    passes: tuple[str, ...]
    formats: Mapping[str, WeightFormat]
    pruning: Pruning | None = None
    structure: Structure | None = None
    calibration: CalibrationSize = field(default_factory=CalibrationSize)
    recovery: Recovery = field(default_factory=Recovery)

    @property
    def needs_calibration(self) -> bool:
        """Whether a step looks at activations."""
        prunes_by_inputs = self.pruning is not None and self.pruning.method != "magnitude"
        scales_by_inputs = self.method != "rtn" or self.scaling != "none"
        scales_by_inputs = scales_by_inputs or self.activations == "static"
        return scales_by_inputs or prunes_by_inputs or self.structure is not None


def recipe_names() -> tuple[str, ...]:
    """The shipped recipes."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def load_recipe(name: str | Path) -> Recipe:
    """A shipped recipe by name, or the one in a file whose name ends in `.toml`.

    UsageError names the key that is wrong; InputError says why a file cannot be read.
    """
    if str(name).endswith(".toml"):
        path = Path(name)
    elif str(name) in recipe_names():
        path = RECIPES / f"{name}.toml"
    else:
        known = ", ".join(recipe_names())
        message = f"there is no recipe {str(name)[:80]!r}; use a file *.toml or one of {known}"
        raise UsageError(message)
    return parse_recipe(path.stem, read_text(str(path), max_bytes=MAX_RECIPE_BYTES))


def parse_recipe(name: str, text: str) -> Recipe:
    """The recipe in a TOML text."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        message = f"recipe {name}: is not valid TOML: {err}"
        raise InputError(message) from err
    try:
        return _checked(_parse(name, text, Fields(values, f"recipe {name}")))
    except ModelConfigError as err:
        raise UsageError(str(err)) from err


def _parse(name: str, text: str, fields: Fields) -> Recipe:
    _refuse_unknown(fields, _KEYS)
    weights = _choice(fields, "weights", WEIGHT_FORMATS, None)
    calibration = fields.nested("calibration")
    _refuse_unknown(calibration, ("num_sequences", "sequence_tokens"))
    usual = CalibrationSize()
    return Recipe(
        name=name,
        text=text,
        description=fields.text("description", ""),
        weights=weights,
        granularity=_choice(fields, "granularity", get_args(Granularity), "row"),
        symmetric=fields.boolean("symmetric", default=True),
        method=_choice(fields, "method", get_args(Method), "rtn"),
        scaling=_choice(fields, "scaling", get_args(Scaling), "none"),
        smoothing=fields.real("smoothing", 0.0, 1.0, 0.5),
        activation_bits=_one_of(fields, "activation_bits", (8, 16), 16),
        activations=_choice(fields, "activations", get_args(Activations), "dynamic"),
        input_scales=fields.boolean("input_scales", default=False),
        passes=_passes(fields),
        formats=_formats(fields),
        pruning=_pruning(fields.nested("pruning")) if fields.has("pruning") else None,
        structure=_structure(fields.nested("structure")) if fields.has("structure") else None,
        calibration=CalibrationSize(
            num_sequences=calibration.integer("num_sequences", 1, 4096, usual.num_sequences),
            sequence_tokens=calibration.integer("sequence_tokens", 2, 8192, usual.sequence_tokens),
        ),
        recovery=_recovery(fields.nested("recovery")),
    )


def _checked(recipe: Recipe) -> Recipe:
    """The recipe, unless its keys contradict each other."""
    is_integer = recipe.weights in INTEGER_FORMATS
    faults = (
        (
            recipe.granularity == "tensor" and recipe.weights != "int8",
            "'granularity' \"tensor\" needs 'weights' \"int8\"",
        ),
        (
            recipe.granularity == "tensor" and recipe.method == "gptq",
            "'granularity' \"tensor\" goes with 'method' \"rtn\" only",
        ),
        (
            (recipe.method != "rtn" or recipe.scaling != "none") and not is_integer,
            "'method' and 'scaling' need integer 'weights'",
        ),
        (
            recipe.activation_bits == 8 and not is_integer,
            "'activation_bits' 8 needs integer 'weights'",
        ),
        (
            (recipe.activations == "static" or recipe.input_scales) and not is_integer,
            "'activations' \"static\" and 'input_scales' need integer 'weights'",
        ),
        (
            not recipe.symmetric and (not is_integer or recipe.pruning is not None),
            "'symmetric' false needs integer 'weights' and no 'pruning', which offsets would undo",
        ),
        (
            recipe.pruning is not None and recipe.method == "gptq",
            "'method' \"gptq\" would fill the zeros of 'pruning' again; its method \"sparsegpt\" "
            "rounds in the same way",
        ),
    )
    for is_wrong, fault in faults:
        if is_wrong:
            message = f"recipe {recipe.name}: {fault}"
            raise UsageError(message)
    return recipe


def _refuse_unknown(fields: Fields, known: tuple[str, ...]) -> None:
    for key in fields.names():
        if key not in known:
            message = f"{fields.where}: unknown key {key[:80]!r}; there are {', '.join(known)}"
            raise UsageError(message)


def _choice(fields: Fields, key: str, names: tuple[Name, ...], default: Name | None) -> Name:
    value = fields.text(key, default)
    for name in names:
        if value == name:
            return name
    fields.refuse(key, f"one of {', '.join(names)}")


def _one_of(fields: Fields, key: str, values: tuple[int, ...], default: int) -> int:
    value = fields.integer(key, min(values), max(values), default)
    if value not in values:
        fields.refuse(key, f"one of {', '.join(map(str, values))}")
    return value


def _passes(fields: Fields) -> tuple[str, ...]:
    names: list[str] = []
    for name in fields.texts("passes") or DEFAULT_PASSES:
        if name not in (*PASS_NAMES, "default"):
            fields.refuse("passes", f"names of default, {', '.join(PASS_NAMES)}")
        names.extend(DEFAULT_PASSES if name == "default" else (name,))
    return tuple(names)


def _pruning(table: Fields) -> Pruning:
    _refuse_unknown(table, ("method", "pattern", "sparsity"))
    pattern = _choice(table, "pattern", get_args(Pattern), "unstructured")
    pruning = Pruning(
        method=_choice(table, "method", get_args(PruningMethod), None),
        pattern=pattern,
        sparsity=table.real("sparsity", 0.0, 0.99, 0.5 if pattern == "2:4" else None),
    )
    if pattern == "2:4" and pruning.sparsity != 0.5:
        table.refuse("sparsity", "0.5, which 2:4 means")
    return pruning


def _structure(table: Fields) -> Structure:
    keys = ("heads", "channels", "kv_groups", "layers")
    _refuse_unknown(table, keys)
    heads, channels, kv_groups, layers = (table.real(key, 0.0, 0.99, 0.0) for key in keys)
    return Structure(heads=heads, channels=channels, kv_groups=kv_groups, layers=layers)


def _recovery(table: Fields) -> Recovery:
    _refuse_unknown(table, ("rate", "batch_tokens", "label_share"))
    usual = Recovery()
    return Recovery(
        rate=table.real("rate", 1e-6, 0.1, usual.rate),
        batch_tokens=table.integer("batch_tokens", 16, 1 << 20, usual.batch_tokens),
        label_share=table.real("label_share", 0.0, 1.0, usual.label_share),
    )


def _formats(fields: Fields) -> dict[str, WeightFormat]:
    table = fields.nested("formats")
    return {name: _choice(table, name, WEIGHT_FORMATS, None) for name in table.names()}
