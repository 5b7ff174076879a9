"""The safetensors reader: what it accepts, and that each crafted file ends in one typed error."""

import json
import os
import resource
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm.errors import ModelFileError, ModelNotFoundError
from autoglm.modelfile import safetensors as reader
from autoglm.modelfile.safetensors import TensorFile, read_header

TWO = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
TWO_BYTES = 32
BIG = 2**53


def raw(header: object, num_data: int = TWO_BYTES, *, length: int | None = None) -> bytes:
    """A file with this header (text as it is, else as JSON) and zero data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(num_data)


def one(num_data: int = 4, **changes: object) -> bytes:
    """A file with one tensor of four bytes, some of its fields changed; None removes one."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    kept = {key: value for key, value in entry.items() if value is not None}
    return raw({"x": kept}, num_data)


def text_of(fields: str) -> bytes:
    return raw(b'{"x":{' + fields.encode() + b"}}", 4)


HOSTILE = {
    "empty file": (b"", "too few"),
    "seven bytes": (b"\x01" * 7, "too few"),
    "length alone": (bytes(8), "expected a JSON object"),
    "header past the end": (raw(TWO, 0, length=10_000), "incomplete"),
    "header of 2^64-1 bytes": (b"\xff" * 8 + b"{}", "at most"),
    "header over the cap": ((100_000_001).to_bytes(8, "little") + b"{}", "at most"),
    "length one short": (raw(TWO, length=len(json.dumps(TWO)) - 1), "expected"),
    "not JSON": (raw(b"hello, world"), "expected a JSON object"),
    "array header": (raw(b"[1]"), "expected a JSON object"),
    "leading blank": (raw(b" " + json.dumps(TWO).encode()), "expected a JSON object"),
    "text after the object": (raw(json.dumps(TWO).encode() + b"x"), "nothing after"),
    "zero bytes as padding": (raw(json.dumps(TWO).encode() + b"\0"), "nothing after"),
    "unclosed object": (raw(json.dumps(TWO).encode()[:-1]), "expected"),
    "trailing comma": (raw(json.dumps(TWO).encode()[:-1] + b",}"), "tensor name"),
    "UTF-16": (raw(json.dumps(TWO).encode("utf-16")), "expected a JSON object"),
    "depth bomb": (raw(b'{"x":' + b"[" * 100_000), "tensor name"),
    "object bomb": (raw(b'{"x":' * 50_000), "expected"),
    "duplicate tensor": (
        raw(b'{"x":%b,"x":%b}' % ((json.dumps(TWO["a"]).encode(),) * 2), 24),
        "twice",
    ),
    "duplicate field": (
        text_of('"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]'),
        "twice",
    ),
    "duplicate by escape": (
        raw(b'{"x":%b,"\\u0078":%b}' % ((json.dumps(TWO["a"]).encode(),) * 2), 24),
        "tensor name",
    ),
    "duplicate metadata": (raw(b'{"__metadata__":{"a":"1","a":"2"}}', 0), "repeats"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}}, 0), "__metadata__"),
    "metadata is text": (raw({"__metadata__": "a"}, 0), "tensor name"),
    "empty name": (raw({"": TWO["a"]}, 24), "tensor name"),
    "control characters in a name": (raw({"a\nb": TWO["a"]}, 24), "tensor name"),
    "name of 300 bytes": (raw({"a" * 300: TWO["a"]}, 24), "tensor name"),
    "unknown type": (one(dtype="F31"), "has type 'F31'"),
    "type in lower case": (one(dtype="f32"), "expected"),
    "type is a number": (one(dtype=7), "expected"),
    "negative extent": (one(shape=[-1]), "expected"),
    "fractional extent": (one(shape=[1.5]), "expected"),
    "extent as text": (one(shape=["1"]), "expected"),
    "extent with exponent": (text_of('"dtype":"F32","shape":[1e0],"data_offsets":[0,4]'), "expe"),
    "extent with leading zero": (
        text_of('"dtype":"F32","shape":[01],"data_offsets":[0,4]'),
        "expected",
    ),
    "extent of 5000 digits": (one(shape=[10**4000]), "expected"),
    "product wraps to 0": (one(shape=[2**32, 2**32], data_offsets=[0, 0], num_data=0), "more than"),
    "product wraps to 4": (one(shape=[2**33, 2**31 + 1]), "more than"),
    "one huge extent": (one(shape=[BIG]), "more than"),
    "huge times zero": (one(shape=[BIG, BIG, 0], data_offsets=[0, 0], num_data=0), "more than"),
    "nine dimensions": (one(shape=[1] * 9), "expected"),
    "shape nested": (one(shape=[[1]]), "expected"),
    "no shape": (one(shape=None), "lacks shape"),
    "no offsets": (one(data_offsets=None), "lacks data_offsets"),
    "unknown field": (one(stride=[1]), "expected"),
    "negative offset": (one(data_offsets=[-4, 0]), "expected"),
    "offsets reversed": (one(data_offsets=[4, 0]), "hold -4"),
    "three offsets": (one(data_offsets=[0, 4, 4]), "expected"),
    "offsets too short": (one(data_offsets=[0, 3]), "needs 4 bytes"),
    "offsets too long": (one(num_data=8, data_offsets=[0, 8]), "needs 4 bytes"),
    "offset past 2^53": (one(data_offsets=[10**17, 10**17 + 4]), "expected"),
    "tensor outside the file": (one(num_data=0), "incomplete"),
    "truncated data": (raw(TWO, TWO_BYTES - 1), "incomplete"),
    "trailing byte": (raw(TWO, TWO_BYTES + 1), "tensors end at"),
    "data without tensors": (raw({}, 4), "tensors end at"),
    "gap at the start": (one(num_data=8, data_offsets=[4, 8]), "gap"),
    "gap between": (
        raw({**TWO, "b": {**TWO["b"], "data_offsets": [26, 34]}}, 34),
        "gap",
    ),
    "overlap": (raw({**TWO, "b": {**TWO["b"], "data_offsets": [16, 24]}}, 24), "overlaps"),
    "same bytes twice": (raw({"a": TWO["a"], "c": TWO["a"]}, 24), "overlaps"),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_ends_in_a_model_file_error_that_says_why(tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_header(path)
    assert len(str(caught.value)) < 1000


def test_reads_types_shapes_and_places(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw({"__metadata__": {"format": "pt", "note": 'a "b" \\ \u20ac'}, **TWO}))
    tensors = read_header(path).tensors
    start = path.stat().st_size - TWO_BYTES
    assert tensors["a"] == ("a", "F32", (2, 3), start, 24)
    assert tensors["b"] == ("b", "BF16", (4,), start + 24, 8)


def test_orders_tensors_by_their_bytes_whatever_the_header_says(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw({"b": TWO["b"], "a": TWO["a"]}))
    assert list(read_header(path).tensors) == ["a", "b"]


def test_accepts_scalars_empty_tensors_blanks_and_padding(tmp_path):
    path = tmp_path / "m.safetensors"
    header = (
        b'{ "s" : { "shape" : [ ] , "dtype" : "F64" , "data_offsets" : [ 0 , 8 ] } ,\n'
        b'"e":{"data_offsets":[8,8],"dtype":"U8","shape":[0,5]}}   '
    )
    path.write_bytes(raw(header, 8))
    tensors = read_header(path).tensors
    assert [(t.shape, t.nbytes) for t in tensors.values()] == [((), 8), ((0, 5), 0)]


def test_reads_what_the_reference_implementation_writes(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "m.safetensors"
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    save_file({"w": values, "v": np.arange(3, dtype=np.int8)}, path, metadata={"k": "v"})
    with TensorFile(path) as file:
        tensor = file.header.tensors["w"]
        assert tensor.shape == (3, 4)
        assert file.read(tensor, 16, 16) == values[1].tobytes()


def test_a_slice_outside_its_tensor_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw(TWO))
    with TensorFile(path) as file, pytest.raises(IndexError, match="outside tensor 'a'"):
        file.read(file.header.tensors["a"], 20, 8)


def test_a_file_cut_while_open_is_a_model_file_error(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw(TWO))
    with TensorFile(path) as file:
        os.truncate(path, path.stat().st_size - 10)
        with pytest.raises(ModelFileError, match="too early"):
            file.read(file.header.tensors["b"], 0, 8)


def test_header_cap_is_a_parameter(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw(TWO))
    with pytest.raises(ModelFileError, match="at most 16"):
        read_header(path, max_header_bytes=16)


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "m.safetensors"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    expected = ModelNotFoundError if kind == "missing" else ModelFileError
    with pytest.raises(expected, match=r"m\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    "unit",
    [
        b'"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
        b'"__metadata__":{"%07d":""},',
        b'"%07d":[[[[],[],[]]]],',
    ],
    ids=["tensors", "metadata", "arrays"],
)
def test_a_header_at_the_cap_costs_bounded_time_and_memory(tmp_path, unit):
    path = tmp_path / "m.safetensors"
    count = 20_000_000 // len(unit % 0)
    path.write_bytes(raw(b"{" + b"".join(unit % i for i in range(count)), 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with pytest.raises(ModelFileError):
        read_header(path)
    assert time.process_time() - begin < 5
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown_bytes <= 2 * reader.MAX_HEADER_BYTES


VALID = raw({"__metadata__": {"format": "pt"}, **TWO})


@given(st.data())
def test_any_edit_of_a_valid_file_is_read_or_refused_in_type(tmp_path_factory, data):
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        edit = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if edit == "flip" and place < len(content):
            content[place] ^= data.draw(st.integers(1, 255))
        elif edit == "cut":
            del content[place:]
        elif edit == "insert":
            content[place:place] = data.draw(
                st.sampled_from([b"0", b"[", b"}", b",", b'"', b"9" * 20, b"-", b"\x00", b"\\"])
            )
        elif edit == "drop":
            del content[place : place + data.draw(st.integers(1, 9))]
    path = tmp_path_factory.getbasetemp() / "edited.safetensors"
    path.write_bytes(content)
    try:
        header = read_header(path)
    except ModelFileError:
        return
    ends = [tensor.offset + tensor.nbytes for tensor in header.tensors.values()]
    assert max(ends, default=header.file_bytes) == header.file_bytes == len(content)
