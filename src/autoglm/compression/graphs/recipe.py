"""What is done to an ONNX network, as a TOML file whose every key is checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from autoglm.errors import InputError, ModelConfigError, UsageError
from autoglm.inputs.text import read_text
from autoglm.modelfile.fields import Fields

Weights = Literal["fp32", "int8"]
Granularity = Literal["channel", "tensor"]
Activations = Literal["asymmetric", "symmetric"]
Name = TypeVar("Name", bound=str)

RECIPES = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 64 << 10
_KEYS = ("description", "weights", "granularity", "activations", "covered")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRecipe:
    """`granularity` is how many weights share a scale. `covered` is the share of a tensor's values
    in each calibration batch that its 8-bit range covers, on the mean of the batches; 1 covers all.
    """

    name: str
    text: str
    description: str
    weights: Weights
    granularity: Granularity
    activations: Activations
    covered: float

    @property
    def needs_calibration(self) -> bool:
        """Whether ranges of activations are measured."""
        return self.weights == "int8"


def graph_recipe_names() -> tuple[str, ...]:
    """The shipped recipes."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def load_graph_recipe(name: str | Path) -> GraphRecipe:
    """A shipped recipe by name, or the one in a file whose name ends in `.toml`.

    UsageError names the key that is wrong; InputError says why a file cannot be read.
    """
    if str(name).endswith(".toml"):
        path = Path(name)
    elif str(name) in graph_recipe_names():
        path = RECIPES / f"{name}.toml"
    else:
        known = ", ".join(graph_recipe_names())
        message = (
            f"there is no recipe {str(name)[:80]!r} for ONNX; use a file *.toml or one of {known}"
        )
        raise UsageError(message)
    return parse_graph_recipe(path.stem, read_text(str(path), max_bytes=MAX_RECIPE_BYTES))


def parse_graph_recipe(name: str, text: str) -> GraphRecipe:
    """The recipe in a TOML text."""
    try:
        fields = Fields(tomllib.loads(text), f"recipe {name}")
        return _parse(name, text, fields)
    except tomllib.TOMLDecodeError as err:
        message = f"recipe {name}: is not valid TOML: {err}"
        raise InputError(message) from err
    except ModelConfigError as err:
        raise UsageError(str(err)) from err


def _parse(name: str, text: str, fields: Fields) -> GraphRecipe:
    for key in fields.names():
        if key not in _KEYS:
            message = f"{fields.where}: unknown key {key[:80]!r}; there are {', '.join(_KEYS)}"
            raise UsageError(message)
    weights = _choice(fields, "weights", get_args(Weights), None)
    if weights == "fp32" and (set(fields.names()) - {"description", "weights"}):
        message = (
            f"{fields.where}: 'granularity', 'activations' and 'covered' need 'weights' \"int8\""
        )
        raise UsageError(message)
    return GraphRecipe(
        name=name,
        text=text,
        description=fields.text("description", ""),
        weights=weights,
        granularity=_choice(fields, "granularity", get_args(Granularity), "channel"),
        activations=_choice(fields, "activations", get_args(Activations), "asymmetric"),
        covered=fields.real("covered", 0.9, 1.0, 0.9999),
    )


def _choice(fields: Fields, key: str, names: tuple[Name, ...], default: Name | None) -> Name:
    value = fields.text(key, default)
    for name in names:
        if value == name:
            return name
    fields.refuse(key, f"one of {', '.join(names)}")
