"""The units of a compression, and writing those for which no activations are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple, Protocol

from autoglm.compression.matrices import stream_parts
from autoglm.compression.recipe import Recipe
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import Tensors, Vector, split_name
from autoglm.modelfile.pack import vector_bytes


class Unit(NamedTuple):
    """Tensors that are finished together: before the layers, a layer, or after them.

    `prefix` is that of a layer's tensors, and empty outside layers.
    """

    name: str
    prefix: str
    tensors: Tensors

    def parts(self) -> list[str]:
        """The names of the stored tensors."""
        return [spec.name for tensor in self.tensors for spec in tensor.parts()]


class UnitWriter(Protocol):
    """How the tensors of a unit get into the stage."""

    def write(self, unit: Unit) -> None:
        """Write all tensors of the unit."""

    def replay(self, unit: Unit) -> None:
        """Catch up with a unit that an earlier run has written."""


class Sink(Protocol):
    """Where the bytes of tensors go."""

    def append(self, name: str, data: bytes) -> None:
        """Take the next bytes of tensor `name`."""


class StreamedUnits:
    """Rounds rows to nearest as they are read; units have nothing to do with each other."""

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        stage: Sink,
        on_read: Callable[[int], None],
    ) -> None:
        """`on_read` gets the number of source bytes read since the last call."""
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._stage = stage
        self._on_read = on_read

    def write(self, unit: Unit) -> None:
        """Write all tensors of the unit."""
        for tensor in unit.tensors:
            if isinstance(tensor, Vector):
                self._stage.append(tensor.name, vector_bytes(tensor, self._checkpoint))
                continue
            specs = tensor.parts()
            for num_read, parts in stream_parts(tensor, self._checkpoint, self._recipe):
                for spec, part in zip(specs, parts, strict=True):
                    self._stage.append(spec.name, part)
                self._on_read(num_read)

    def replay(self, unit: Unit) -> None:
        """Nothing: a finished unit has no bearing on others."""


def units_of(tensors: Tensors) -> Iterator[Unit]:
    """The units in the order of execution."""
    num_outer = 0
    for prefix, group in groupby(tensors, key=lambda tensor: split_name(tensor.name)[0]):
        name = prefix.rstrip(".")
        if not name:
            name = ("embedding", "head")[num_outer]
            num_outer += 1
        yield Unit(name, prefix, tuple(group))
