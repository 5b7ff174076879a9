"""GGUF files: values as the gguf package reads them, models as their checkpoints, hostile files."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.modelfile.conftest import Parts

import autoglm
from autoglm.compression.imports.gguf import GgufFile
from autoglm.compression.imports.gguf_blocks import BLOCK_OF, dequantise
from autoglm.compression.imports.gguf_model import ARCHITECTURES, checkpoint_name, config_of
from autoglm.errors import ModelFileError, UnsupportedModelError

KINDS = gguf.GGMLQuantizationType
# Where the halves of a block's scales begin.
SCALES = {
    "F32": (),
    "F16": (0,),
    "BF16": (),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


def random_blocks(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Random bytes, but for scales, which are ordinary numbers."""
    rng = np.random.default_rng(seed)
    block = BLOCK_OF[kind]
    data = rng.integers(0, 256, (count, block.num_bytes), np.uint8)
    if kind == "F32":
        data = rng.standard_normal((count, 1)).astype(np.float32).view(np.uint8)
    if kind == "BF16":
        data = rng.standard_normal((count, 1)).astype(np.float32).view(np.uint8)[:, 2:]
    for start in SCALES[kind]:
        data[:, start : start + 2] = (
            rng.standard_normal((count, 1)).astype(np.float16).view(np.uint8)
        )
    return np.ascontiguousarray(data)


@pytest.mark.parametrize("kind", BLOCK_OF)
def test_values_are_those_of_the_gguf_package(kind):
    blocks = random_blocks(kind, 64)
    ours = dequantise(BLOCK_OF[kind], blocks.tobytes())
    assert np.array_equal(ours, gguf.quants.dequantize(blocks, KINDS[kind]).reshape(-1))


def test_formats_have_the_sizes_and_numbers_of_the_gguf_package():
    for kind, block in BLOCK_OF.items():
        assert gguf.GGML_QUANT_SIZES[KINDS[kind]] == (block.num_values, block.num_bytes)


LLAMA = {
    "llama.block_count": 2,
    "llama.context_length": 256,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 40,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.vocab_size": 50,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in outer:
        return f"{outer[stem]}.weight"
    _, _, layer, module = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[module]}.weight"


def paired(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of q or k for rotation of neighbouring pairs, as converters of llama store them."""
    halves = rows.reshape(num_heads, 2, len(rows) // num_heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_llama(
    path: Path, tensors: dict[str, np.ndarray], encode: Callable[[str, np.ndarray], object]
) -> Path:
    """A llama as the gguf package writes it; `encode` gives the stored array and its kind."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in LLAMA.items():
        writer.add_uint32(key, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_array("tokenizer.ggml.tokens", [f"w{i}" for i in range(50)])
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    writer.add_uint32("tokenizer.ggml.eos_token_id", 2)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    for name, values in tensors.items():
        for module, num_heads in (("q_proj", 4), ("k_proj", 2)):
            if module in name:
                values = paired(values, num_heads)
        stored, kind = encode(name, values)
        writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_floats(name: str, values: np.ndarray) -> tuple[np.ndarray, object]:
    return values, KINDS.F32


def as_q8(name: str, values: np.ndarray) -> tuple[np.ndarray, object]:
    if values.ndim == 1 or values.shape[1] % 32:
        return values, KINDS.F32
    return gguf.quants.quantize(values, KINDS.Q8_0), KINDS.Q8_0


def test_float_model_becomes_the_bundle_of_its_checkpoint(parts, recipe, tmp_path):
    mine = recipe('weights = "fp32"')
    file = write_llama(tmp_path / "model.gguf", parts.tensors, as_floats)
    autoglm.compress(file, mine, out=tmp_path / "imported")
    parts.files = {}
    autoglm.compress(parts.write(tmp_path / "src"), mine, out=tmp_path / "ours")
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("imported", "ours")
    ]
    assert weights[0] == weights[1]


def test_quantised_model_becomes_the_bundle_of_its_values(parts, recipe, tmp_path):
    mine = recipe('weights = "int8"')
    file = write_llama(tmp_path / "model.gguf", parts.tensors, as_q8)
    autoglm.compress(file, mine, out=tmp_path / "imported")
    parts.files = {}
    for name, values in parts.tensors.items():
        stored, kind = as_q8(name, values)
        if kind == KINDS.Q8_0:
            parts.tensors[name] = gguf.quants.dequantize(stored, kind)
    autoglm.compress(parts.write(tmp_path / "src"), mine, out=tmp_path / "ours")
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("imported", "ours")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_tensor_names_are_those_of_the_gguf_package(family):
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    for tensor in gguf.MODEL_TENSORS[architecture]:
        name = gguf.TENSOR_NAMES[tensor].format(bid=3)
        if any(part in name for part in ("rope", "rot_embd", "exp", "_inp", "cls")):
            continue  # refused: scaled rotations and experts
        assert checkpoint_name(f"{name}.weight")


def test_config_takes_what_a_family_needs():
    keys = {key.replace("llama", "qwen3"): value for key, value in LLAMA.items()}
    config = config_of(
        {
            **keys,
            "general.architecture": "qwen3",
            "qwen3.rope.freq_base": 1e6,
            "qwen3.attention.key_length": 16,
        },
        has_head=False,
    )
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert (config["rope_theta"], config["head_dim"]) == (1e6, 16)
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba' is not read from GGUF"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling is not read"),
    ],
)
def test_models_that_are_not_read_are_refused(change, message):
    with pytest.raises(UnsupportedModelError, match=message):
        config_of({"general.architecture": "llama", **LLAMA, **change}, has_head=True)


# Hostile files, built by hand.


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], code: int = 0, offset: int = 0) -> bytes:
    return (
        string(name)
        + struct.pack("<I", len(shape))
        + b"".join(struct.pack("<Q", extent) for extent in shape)
        + struct.pack("<IQ", code, offset)
    )


def crafted(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    num_keys: int | None = None,
    num_tensors: int | None = None,
    data: bytes = b"",
) -> bytes:
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(keys) if num_keys is None else num_keys,
    )
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


ROW = tensor("a", (8,))
BROKEN = {
    "empty": b"",
    "another magic": crafted(magic=b"GGML"),
    "version 1": crafted(version=1),
    "version of a big-endian machine": crafted(version=3 << 24),
    "too many tensors": crafted(num_tensors=1 << 60),
    "more tensors than there are": crafted(num_tensors=3),
    "too many keys": crafted(num_keys=1 << 63),
    "more keys than there are": crafted(num_keys=1),
    "key of a huge length": crafted(keys=(struct.pack("<Q", 1 << 62),)),
    "key past the end": crafted(keys=(struct.pack("<Q", 500),)),
    "key that is no text": crafted(
        keys=(struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 1),)
    ),
    "key twice": crafted(keys=(key("k", 0, b"\1"), key("k", 0, b"\1"))),
    "unknown kind": crafted(keys=(key("k", 13, b"\1"),)),
    "kind of a huge number": crafted(keys=(key("k", 0xFFFFFFFF, b"\1"),)),
    "truth value of two": crafted(keys=(key("k", 7, b"\2"),)),
    "string past the end": crafted(keys=(key("k", 8, struct.pack("<Q", 1000)),)),
    "string of a huge length": crafted(keys=(key("k", 8, struct.pack("<Q", 1 << 40)),)),
    "array of arrays": crafted(keys=(key("k", 9, struct.pack("<IQ", 9, 1)),)),
    "array of a huge length": crafted(keys=(key("k", 9, struct.pack("<IQ", 0, 1 << 61)),)),
    "array whose size wraps": crafted(keys=(key("k", 9, struct.pack("<IQ", 10, 1 << 61)),)),
    "array past the end": crafted(keys=(key("k", 9, struct.pack("<IQ", 4, 200)),)),
    "array of an unknown kind": crafted(keys=(key("k", 9, struct.pack("<IQ", 77, 1) + b"\0"),)),
    "alignment of zero": crafted(keys=(key("general.alignment", 4, struct.pack("<I", 0)),)),
    "alignment of three": crafted(keys=(key("general.alignment", 4, struct.pack("<I", 3)),)),
    "alignment that is text": crafted(keys=(key("general.alignment", 8, string("32")),)),
    "huge alignment": crafted(keys=(key("general.alignment", 4, struct.pack("<I", 1 << 31)),)),
    "tensor without a name": crafted(tensors=(tensor("", (8,)),), data=bytes(32)),
    "tensor with a bell": crafted(tensors=(tensor("a\a", (8,)),), data=bytes(32)),
    "name of a huge length": crafted(tensors=(struct.pack("<Q", 1 << 50),)),
    "no dimensions": crafted(tensors=(tensor("a", ()),), data=bytes(32)),
    "five dimensions": crafted(tensors=(tensor("a", (1, 1, 1, 1, 8)),), data=bytes(32)),
    "dimension of zero": crafted(tensors=(tensor("a", (8, 0)),), data=bytes(32)),
    "size that wraps to zero": crafted(tensors=(tensor("a", (1 << 32, 1 << 32)),), data=bytes(32)),
    "size that wraps to a little": crafted(
        tensors=(tensor("a", ((1 << 62) + 2, 4)),), data=bytes(32)
    ),
    "unknown type": crafted(tensors=(tensor("a", (8,), code=99),), data=bytes(32)),
    "type that was removed": crafted(tensors=(tensor("a", (8,), code=4),), data=bytes(32)),
    "part of a block": crafted(tensors=(tensor("a", (8,), code=8),), data=bytes(64)),
    "offset without alignment": crafted(tensors=(tensor("a", (8,), offset=8),), data=bytes(64)),
    "offset past the end": crafted(tensors=(tensor("a", (8,), offset=1 << 40),), data=bytes(32)),
    "offset that wraps": crafted(
        tensors=(tensor("a", (8,), offset=(1 << 64) - 32),), data=bytes(32)
    ),
    "data cut": crafted(tensors=(ROW,), data=bytes(31)),
    "overlap": crafted(tensors=(ROW, tensor("b", (8,))), data=bytes(32)),
    "gap": crafted(tensors=(ROW, tensor("b", (8,), offset=64)), data=bytes(96)),
    "name twice": crafted(tensors=(ROW, tensor("a", (8,), offset=32)), data=bytes(64)),
    "rest": crafted(tensors=(ROW,), data=bytes(64)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused(name, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ModelFileError, match=r"model\.gguf"):
        GgufFile(path)


def test_what_the_broken_files_are_made_of_is_read(tmp_path):
    path = tmp_path / "model.gguf"
    values = np.arange(16, dtype=np.float32)
    keys = (key("k", 9, struct.pack("<IQ", 8, 2) + string("a") + string("b")), key("n", 7, b"\1"))
    data = crafted(keys=keys, tensors=(ROW, tensor("b", (4, 2), offset=32)), data=values.tobytes())
    path.write_bytes(data)
    with GgufFile(path) as file:
        assert file.header.keys == {"k": ("a", "b"), "n": True}
        second = file.header.tensors["b"]
        assert second.shape == (2, 4)
        assert file.read(second, 0, 32) == values[8:].tobytes()


def valid() -> bytes:
    return crafted(
        keys=(
            key("general.architecture", 8, string("llama")),
            key("k", 9, struct.pack("<IQ", 4, 3) + bytes(12)),
        ),
        tensors=(ROW, tensor("b", (32, 2), code=8, offset=32)),
        data=bytes(32 + 68),
    )


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(valid()) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.integers(0, len(valid())),
)
def test_changed_bytes_are_read_or_refused(tmp_path_factory, edits, cut):
    data = bytearray(valid())
    for place, byte in edits:
        data[place] = byte
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(data[: cut or len(data)])
    try:
        GgufFile(path).close()
    except ModelFileError as err:
        assert str(path) in str(err)


def test_counts_that_lie_cost_no_memory(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(crafted(keys=(key("k", 9, struct.pack("<IQ", 10, 1 << 21)),)))
    tracemalloc.start()
    with pytest.raises(ModelFileError):
        GgufFile(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_tensor_of_an_unknown_name_is_refused(parts: Parts, recipe, tmp_path):
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("rope_freqs.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight' belongs to no model"):
        autoglm.compress(file, "w4a8", out=tmp_path / "out")
