"""Layers packed on the machines of a Ray cluster, and written here in their order: the same bytes.

Every machine must have this version of autoglm and the model under the same path. Only recipes
without calibration can be spread: with it, a layer's inputs depend on the layers before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoglm.compression.recipe import Recipe, parse_recipe
from autoglm.compression.source import open_source
from autoglm.compression.units import Sink, StreamedUnits, Unit, units_of
from autoglm.errors import AutoGLMError, ResourceError, UsageError, require
from autoglm.modelfile.arch import WeightFormat, parse_architecture
from autoglm.modelfile.checkpoint import Checkpoint, source_bytes
from autoglm.modelfile.layout import InputPart, Matrix, Vector
from autoglm.modelfile.passes import run_passes

# A tensor's name and its next bytes, in the order of writing.
Pieces = list[tuple[str, bytes]]
# The format of a matrix, whether it has an offset, and what it asks of its inputs.
Stored = tuple[WeightFormat, bool, tuple[InputPart, ...]]

LOCAL = "local"
_LOCAL_STORE_BYTES = 1 << 28


class _Collected(Sink):
    def __init__(self) -> None:
        self.pieces: Pieces = []

    def append(self, name: str, data: bytes) -> None:
        self.pieces.append((name, data))


def packed_unit(
    model: str,
    recipe_name: str,
    recipe_text: str,
    matrices: Mapping[str, Stored],
    unit_name: str,
) -> Pieces:
    """The bytes of one unit, as the command's own process would write them.

    `matrices` says how they are stored, by name.
    """
    recipe = parse_recipe(recipe_name, recipe_text)
    with open_source(Path(model)) as source:
        arch = parse_architecture(source.fields, recipe.weights)
        graph = run_passes(arch, source.checkpoint, recipe.passes)
        found = next(unit for unit in units_of(graph.tensors) if unit.name == unit_name)
        unit = found._replace(tensors=tuple(_as_planned(t, matrices) for t in found.tensors))
        collected = _Collected()
        StreamedUnits(recipe, source.checkpoint, collected, lambda _: None).write(unit)
    return collected.pieces


def _as_planned(tensor: Matrix | Vector, matrices: Mapping[str, Stored]) -> Matrix | Vector:
    if isinstance(tensor, Vector):
        return tensor
    weights, has_offset, inputs = matrices[tensor.name]
    return replace(tensor, weights=weights, has_offset=has_offset, inputs=inputs)


class RemoteUnits:
    """Writes units in order while later ones are being packed elsewhere."""

    def __init__(
        self,
        ray: Any,
        model: Path,
        recipe: Recipe,
        units: Sequence[Unit],
        checkpoint: Checkpoint,
        sink: Sink,
        on_read: Callable[[int], None],
    ) -> None:
        """`on_read` gets the number of source bytes read since the last call."""
        self._ray = ray
        self._task = ray.remote(packed_unit)
        matrices = {
            tensor.name: (tensor.weights, tensor.has_offset, tensor.inputs)
            for unit in units
            for tensor in unit.tensors
            if isinstance(tensor, Matrix)
        }
        self._arguments = (str(model), recipe.name, recipe.text, matrices)
        self._waiting = deque(units)
        self._checkpoint = checkpoint
        self._sink = sink
        self._on_read = on_read
        self._in_flight: dict[str, Any] = {}
        self._most = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def write(self, unit: Unit) -> None:
        """Wait for the unit's bytes and hand them on."""
        self._submit()
        pending = self._in_flight.pop(unit.name)
        try:
            pieces: Pieces = self._ray.get(pending)
        except self._ray.exceptions.RayTaskError as err:
            if isinstance(err.cause, AutoGLMError):
                raise err.cause from None
            message = f"a machine failed at {unit.name}: {_last_line(err)}"
            raise ResourceError(message) from err
        except self._ray.exceptions.RayError as err:
            message = f"{unit.name} was lost on its way: {_last_line(err)}"
            raise ResourceError(message) from err
        self._submit()
        for name, data in pieces:
            self._sink.append(name, data)
        self._on_read(source_bytes(unit.tensors, self._checkpoint))

    def replay(self, unit: Unit) -> None:
        """Leave out a unit that an earlier run has written."""
        self._waiting = deque(other for other in self._waiting if other.name != unit.name)
        self._in_flight.pop(unit.name, None)

    def _submit(self) -> None:
        while self._waiting and len(self._in_flight) < self._most:
            unit = self._waiting.popleft()
            self._in_flight[unit.name] = self._task.remote(*self._arguments, unit.name)


@contextmanager
def cluster(address: str, recipe: Recipe) -> Iterator[Any]:
    """A connection to the cluster at `address`; "local" starts one on this machine.

    UsageError when the recipe cannot be spread, ResourceError when there is no such cluster,
    MissingExtraError without Ray.
    """
    if recipe.needs_calibration:
        message = f"recipe {recipe.name} looks at activations; its layers cannot be spread by --ray"
        raise UsageError(message)
    ray = require("ray", extra="scale")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
        options["_node_ip_address"] = "127.0.0.1"
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        message = f"cannot join a Ray cluster at {address}: {_last_line(err)}"
        raise ResourceError(message) from err
    try:
        yield ray
    finally:
        ray.shutdown()


def _last_line(err: BaseException) -> str:
    lines = str(err).strip().splitlines()
    return lines[-1][:200] if lines else type(err).__name__
