"""The bundle: an ordinary Hugging Face directory whose weights lie packed as the kernels read them.

Opening one reads headers and small files only; the native core maps the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from autoglm.errors import ModelConfigError, ModelNotFoundError
from autoglm.modelfile.arch import ArchConfig, Architecture, WeightFormat, parse_architecture
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.files import model_directory, resolve_inside
from autoglm.modelfile.generation import read_generation
from autoglm.modelfile.layout import Vector
from autoglm.modelfile.packing import Packing, packed_tensors, read_packing
from autoglm.modelfile.safetensors import Header, read_header
from autoglm.modelfile.safetensors_writer import ALIGNMENT, PAD_PREFIX, TensorSpec
from autoglm.modelfile.strict_json import read_json
from autoglm.modelfile.tokenizer import TOKENIZER_NAME, read_tokenizer_texts

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


class BundleTensor(NamedTuple):
    """One stored tensor; `offset` counts from the start of file number `file_index`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file_index: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Everything an engine needs to load a model. `tokenizer_path` need not exist.

    `generation` holds the sampling defaults of the checkpoint, see `GenerationDefaults.sampling`.
    """

    path: Path
    architecture: str
    config: ArchConfig
    packing: Packing
    files: tuple[Path, ...]
    tensors: tuple[BundleTensor, ...]
    weights_bytes: int
    tokenizer_path: Path
    chat_template: str | None
    bos_token: str
    eos_token: str
    eos_ids: tuple[int, ...]
    generation: Mapping[str, float]

    @property
    def weights(self) -> WeightFormat:
        """The format of the linear layers."""
        return self.config.weights

    @property
    def max_position(self) -> int:
        """The context length in tokens."""
        return self.config.max_position


def open_bundle(path: str | Path) -> Bundle:
    """Check a bundle's configuration and tensor table and describe it.

    ModelNotFoundError, UnsupportedModelError, ModelConfigError or ModelFileError say what is wrong.
    """
    directory = model_directory(Path(path))
    fields, arch, packing = read_bundle_config(directory)
    weights_path = resolve_inside(directory, WEIGHTS_NAME)
    header = read_header(weights_path)
    texts = read_tokenizer_texts(directory)
    defaults = read_generation(directory, fields, arch.config.vocab_size)
    tensors = _match_tensors(header, arch, packing)
    return Bundle(
        path=directory,
        architecture=arch.name,
        config=arch.config,
        packing=packing,
        files=(weights_path,),
        tensors=tensors,
        weights_bytes=sum(tensor.nbytes for tensor in tensors),
        tokenizer_path=resolve_inside(directory, TOKENIZER_NAME),
        chat_template=texts.chat_template,
        bos_token=texts.bos_token,
        eos_token=texts.eos_token,
        eos_ids=defaults.eos_ids,
        generation=defaults.sampling,
    )


def read_config(directory: Path) -> dict[str, object]:
    """The object in `config.json`; ModelNotFoundError when there is none."""
    if not (directory / CONFIG_NAME).exists():
        message = f"{directory}: holds no model, {CONFIG_NAME} is missing"
        raise ModelNotFoundError(message)
    return read_json(resolve_inside(directory, CONFIG_NAME))


def read_bundle_config(directory: Path) -> tuple[Fields, Architecture, Packing]:
    """The configuration of a bundle; UnsupportedModelError for other checkpoints."""
    fields = Fields(read_config(directory), str(directory / CONFIG_NAME))
    packing = read_packing(fields, directory)
    return fields, parse_architecture(fields, packing.weights), packing


def _match_tensors(
    header: Header, arch: Architecture, packing: Packing
) -> tuple[BundleTensor, ...]:
    """The stored tensors in the order of execution; ModelConfigError names a wrong one."""
    result: list[BundleTensor] = []
    may_lack_biases = "drop-dead" in packing.passes
    for tensor in packed_tensors(arch, packing):
        is_bias = isinstance(tensor, Vector) and tensor.is_bias
        if is_bias and may_lack_biases and tensor.name not in header.tensors:
            continue
        result.extend(_match_tensor(header, spec) for spec in tensor.parts())
    known = {tensor.name for tensor in result}
    for name in header.tensors:
        if name not in known and not name.startswith(PAD_PREFIX):
            message = f"{header.path}: tensor '{name}' is not part of this {arch.name}"
            raise ModelConfigError(message)
    return tuple(result)


def _match_tensor(header: Header, spec: TensorSpec) -> BundleTensor:
    tensor = header.tensors.get(spec.name)
    expected = f"{spec.dtype} {list(spec.shape)}"
    if tensor is None:
        message = f"{header.path}: tensor '{spec.name}' is missing, expected {expected}"
        raise ModelConfigError(message)
    if (tensor.dtype, tensor.shape) != (spec.dtype, spec.shape):
        message = (
            f"{header.path}: tensor '{spec.name}' is {tensor.dtype} {list(tensor.shape)}, "
            f"config.json asks for {expected}"
        )
        raise ModelConfigError(message)
    if tensor.offset % ALIGNMENT:
        message = (
            f"{header.path}: tensor '{spec.name}' begins at byte {tensor.offset}, "
            f"not a multiple of {ALIGNMENT}"
        )
        raise ModelConfigError(message)
    return BundleTensor(spec.name, spec.dtype, spec.shape, 0, tensor.offset, tensor.nbytes)
