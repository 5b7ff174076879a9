"""Checkpoint to bundle, one chunk of rows at a time, so memory does not grow with the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoglm.errors import ModelFileError, UnsupportedModelError
from autoglm.modelfile.arch import Architecture, WeightFormat, parse_architecture
from autoglm.modelfile.bundle import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    read_config,
)
from autoglm.modelfile.checkpoint import Checkpoint, source_bytes
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.files import model_directory, read_bounded, resolve_inside
from autoglm.modelfile.generation import GENERATION_NAME, read_generation
from autoglm.modelfile.layout import Tensors, Vector
from autoglm.modelfile.manifest import MANIFEST_NAME, manifest_text
from autoglm.modelfile.pack import pack_matrix, vector_bytes
from autoglm.modelfile.packing import QUANT_METHOD, config_text
from autoglm.modelfile.passes import DEFAULT_PASSES, Graph, packing_of, run_passes, set_formats
from autoglm.modelfile.safetensors_writer import SafetensorsWriter
from autoglm.modelfile.staging import staged_directory, write_file
from autoglm.modelfile.strict_json import MAX_CONFIG_BYTES
from autoglm.modelfile.tokenizer import (
    CHAT_TEMPLATE_NAME,
    MAX_TOKENIZER_BYTES,
    TOKENIZER_CONFIG_NAME,
    TOKENIZER_NAME,
    check_vocabulary,
    read_tokenizer_texts,
)

Progress = Callable[[int, int], None]
_LICENCE_STEMS = ("license", "licence", "notice", "use_policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was written."""

    path: Path
    architecture: str
    weights: WeightFormat
    passes: tuple[str, ...]
    num_tensors: int
    weights_bytes: int
    has_tokenizer: bool


def convert(
    source: str | Path,
    out: str | Path,
    weights: WeightFormat,
    *,
    passes: Sequence[str] = DEFAULT_PASSES,
    formats: Mapping[str, WeightFormat] | None = None,
    progress: Progress = lambda done, total: None,
) -> Conversion:
    """Write the bundle `out` from the Hugging Face checkpoint in `source`.

    `passes` are names from PASSES; `formats` maps patterns of matrix names, as in
    `model.layers.*.mlp.down`, to formats other than `weights`, the last match counting.
    `progress` gets the source bytes done and in all. A ModelFileError says what is wrong with the
    source, a StorageError why `out` cannot be written, a UsageError which pass or pattern has no
    place; in each case `out` does not appear.
    """
    directory = model_directory(Path(source))
    config = read_config(directory)
    fields = Fields(config, str(directory / CONFIG_NAME))
    refuse_quantised(fields, directory)
    arch = parse_architecture(fields, weights)
    files = small_files(directory, fields, arch)
    with Checkpoint(directory) as checkpoint:
        graph = set_formats(run_passes(arch, checkpoint, passes), formats or {})
        packing = packing_of(graph, passes)
        files[CONFIG_NAME] = config_text(bundle_config(config, graph), packing)
        specs = [spec for tensor in graph.tensors for spec in tensor.parts()]
        with staged_directory(Path(out)) as stage:
            with SafetensorsWriter(stage / WEIGHTS_NAME, specs) as writer:
                _write_tensors(graph.tensors, checkpoint, writer, progress)
                writer.finish()
            for name, data in files.items():
                write_file(stage / name, data)
            write_file(stage / MANIFEST_NAME, manifest_text(stage))
    return Conversion(
        path=Path(out),
        architecture=arch.name,
        weights=weights,
        passes=packing.passes,
        num_tensors=len(specs),
        weights_bytes=writer.num_bytes,
        has_tokenizer=TOKENIZER_NAME in files,
    )


def bundle_config(config: Mapping[str, object], graph: Graph) -> dict[str, object]:
    """The checkpoint's keys, but for what a pass has changed."""
    is_tied = graph.arch.config.tie_word_embeddings
    if is_tied == bool(config.get("tie_word_embeddings")):
        return dict(config)
    return {**config, "tie_word_embeddings": is_tied}


def refuse_quantised(fields: Fields, directory: Path) -> None:
    """Raise UnsupportedModelError for anything but a float checkpoint."""
    if not fields.has("quantization_config"):
        return
    method = fields.nested("quantization_config").text("quant_method", "an unknown method")
    if method == QUANT_METHOD:
        message = f"{directory}: is an autoglm bundle already"
    else:
        message = (
            f"{directory}: weights are already quantised by {method[:40]!r}; "
            "convert the original float checkpoint"
        )
    raise UnsupportedModelError(message)


def small_files(directory: Path, fields: Fields, arch: Architecture) -> dict[str, bytes]:
    """Every file of the bundle but config.json and the weights, checked."""
    vocab_size = arch.config.vocab_size
    read_generation(directory, fields, vocab_size)
    texts = read_tokenizer_texts(directory)
    files: dict[str, bytes] = {}
    if texts.chat_template is not None:
        files[CHAT_TEMPLATE_NAME] = _encode(texts.chat_template, directory)
    if (directory / TOKENIZER_NAME).exists():
        path = resolve_inside(directory, TOKENIZER_NAME)
        check_vocabulary(path, vocab_size)
        files[TOKENIZER_NAME] = read_bounded(path, MAX_TOKENIZER_BYTES)
    for name in (TOKENIZER_CONFIG_NAME, GENERATION_NAME, *_licences(directory)):
        if (directory / name).exists():
            files[name] = read_bounded(resolve_inside(directory, name), MAX_CONFIG_BYTES)
    return files


def _licences(directory: Path) -> list[str]:
    names = (path.name for path in directory.iterdir())
    return sorted(name for name in names if name.lower().startswith(_LICENCE_STEMS))


def _encode(template: str, directory: Path) -> bytes:
    try:
        return template.encode()
    except UnicodeEncodeError as err:
        message = f"{directory}: the chat template is not valid Unicode"
        raise ModelFileError(message) from err


def _write_tensors(
    tensors: Tensors, checkpoint: Checkpoint, writer: SafetensorsWriter, progress: Progress
) -> None:
    total = source_bytes(tensors, checkpoint)
    done = 0
    for tensor in tensors:
        if isinstance(tensor, Vector):
            data = vector_bytes(tensor, checkpoint)
            writer.append(tensor.name, data)
            done += len(data)
            continue
        specs = tensor.parts()
        for num_read, parts in pack_matrix(tensor, checkpoint):
            for spec, part in zip(specs, parts, strict=True):
                writer.append(spec.name, part)
            done += num_read
            progress(min(done, total), total)
