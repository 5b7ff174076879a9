"""Where weights come from: a float checkpoint, one quantised by GPTQ or AWQ, or a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoglm.compression.imports.gguf_model import GgufCheckpoint
from autoglm.compression.imports.quantised import QuantisedCheckpoint, read_packing
from autoglm.modelfile.bundle import CONFIG_NAME, read_config
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.convert import refuse_quantised
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.files import model_directory
from autoglm.modelfile.packing import QUANT_METHOD


@dataclass(frozen=True, slots=True)
class Source:
    """An open model. `directory` has its tokenizer, `weight_files` are those that hold tensors."""

    directory: Path
    config: Mapping[str, object]
    fields: Fields
    checkpoint: Checkpoint
    weight_files: tuple[Path, ...]


@contextmanager
def open_source(model: Path) -> Iterator[Source]:
    """Open a model directory, or a file whose name ends in `.gguf`.

    Beside a GGUF file may lie tokenizer.json and its companions. ModelFileError and its kinds say
    what is wrong.
    """
    if model.suffix == ".gguf":
        with GgufCheckpoint(model) as gguf:
            config = gguf.config()
            yield Source(model.parent, config, Fields(config, str(model)), gguf, (model,))
        return
    directory = model_directory(model)
    config = read_config(directory)
    fields = Fields(config, str(directory / CONFIG_NAME))
    files = tuple(sorted(directory.glob("*.safetensors")))
    with _checkpoint(directory, fields) as checkpoint:
        yield Source(directory, config, fields, checkpoint, files)


def _checkpoint(directory: Path, fields: Fields) -> Checkpoint:
    entry = fields.nested("quantization_config")
    if not entry.has("quant_method") or entry.text("quant_method") == QUANT_METHOD:
        refuse_quantised(fields, directory)
        return Checkpoint(directory)
    return QuantisedCheckpoint(directory, read_packing(fields))
