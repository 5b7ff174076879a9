"""ONNX networks: passes keep results, eight bits are their definition, faults are named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import autoglm
from autoglm.compression.graphs import passes
from autoglm.compression.graphs.quantise import Steps, quantised_weights
from autoglm.compression.graphs.runtime import open_session, run
from autoglm.errors import (
    InputError,
    ModelFileError,
    ModelNotFoundError,
    StorageError,
    UnsupportedModelError,
    UsageError,
)

SIDE = 8
CHANNELS = 6


class Net:
    """A network under construction, whose nodes follow each other."""

    def __init__(self, opset: int = 17) -> None:
        self.rng = np.random.default_rng(3)
        self.input = ir.val("images", ir.DataType.FLOAT, ["batch", 3, SIDE, SIDE])
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.opset = opset

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self.constants.append(value)
        return value

    def weights(self, name: str, *shape: int) -> ir.Value:
        array = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return self.constant(name, array.astype(np.float32))

    def add(self, op: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        node = ir.node(op, list(inputs), attributes)
        node.outputs[0].name = f"v{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def conv(self, x: ir.Value, name: str, before: int, after: int, size: int = 3) -> ir.Value:
        weights = self.weights(f"{name}.weight", after, before, size, size)
        return self.add("Conv", x, weights, pads=[size // 2] * 4)

    def norm(self, x: ir.Value, name: str, channels: int, **attributes: object) -> ir.Value:
        gain, shift, mean = (self.weights(f"{name}.{part}", channels) for part in "gsm")
        variance = self.constant(
            f"{name}.v", self.rng.uniform(0.5, 2.0, channels).astype(np.float32)
        )
        return self.add("BatchNormalization", x, gain, shift, mean, variance, **attributes)

    def model(self, *outputs: ir.Value) -> ir.Model:
        for value in outputs:
            value.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [self.input],
            outputs,
            nodes=self.nodes,
            initializers=self.constants,
            opset_imports={"": self.opset},
            name="net",
        )
        return ir.Model(graph, ir_version=10)


def residual(opset: int = 17) -> ir.Model:
    """Convolutions with normalisations, a sum, a pool and a head, and what exporters leave over."""
    net = Net(opset)
    zero = net.constant("zero", np.zeros((), np.float16))
    # A bias of zeros as torch writes it: cast like the input, spread to the number of channels.
    cast = net.add("CastLike", zero, net.input)
    shape = net.add("Shape", net.weights("shaped", CHANNELS, 2))
    rows = net.add("Slice", shape, *(net.constant(f"s{i}", np.array([i])) for i in (0, 1)))
    bias = net.add("Expand", cast, rows)
    first = net.weights("stem.weight", CHANNELS, 3, 3, 3)
    x = net.add("Conv", net.input, first, bias, pads=[1, 1, 1, 1])
    x = net.add("Relu", net.norm(x, "n0", CHANNELS, epsilon=1e-3))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = net.add("Relu", net.norm(net.conv(x, "c1", CHANNELS, 10), "n1", 10))
    y = net.norm(net.conv(y, "c2", 10, CHANNELS), "n2", CHANNELS)
    x = net.add("Relu", net.add("Add", y, net.add("Identity", x)))
    net.add("Sqrt", x)  # dead
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    head = net.weights("head.weight", 4, CHANNELS)
    x = net.add("Gemm", x, head, net.weights("head.bias", 4), transB=1)
    x.name = "logits"
    return net.model(x)


def samples(count: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def save(model: ir.Model, path: Path) -> Path:
    ir.save(model, path)
    return path


def outputs(model: ir.Model | Path, x: np.ndarray) -> np.ndarray:
    loaded = ir.load(model) if isinstance(model, Path) else model
    return run(open_session(loaded, is_optimised=False), {"images": x})[0]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return save(residual(), tmp_path / "net.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", samples())
    return tmp_path / "images.npy"


def test_fused_network_is_the_same_with_fewer_steps(network, tmp_path):
    made = autoglm.compress_graph(network, "graph-fused", out=tmp_path / "out.onnx")
    smaller = ir.load(tmp_path / "out.onnx")
    wanted = ["Conv", "Relu", "MaxPool", "Conv", "Relu", "Conv", "Add", "Relu"]
    assert operators(smaller) == [*wanted, "GlobalAveragePool", "Flatten", "Gemm"]
    assert made.nodes == 11 and made.nodes_before == 20
    whole = outputs(network, samples())
    # Products of single precision in another order.
    assert np.abs(outputs(smaller, samples()) - whole).max() < 2e-6 * np.abs(whole).max()


@pytest.mark.parametrize("step", [passes.remove_dead, passes.FoldConstants()])
def test_dead_nodes_and_constants_change_no_bit(step):
    model = residual()
    whole = outputs(model, samples())
    count = model.graph.num_nodes()
    step(model)
    assert model.graph.num_nodes() < count
    assert np.array_equal(outputs(model, samples()), whole)


def test_fused_weights_are_their_definition():
    net = Net()
    model = net.model(net.norm(net.conv(net.input, "c", 3, 5), "n", 5, epsilon=0.25))
    parts = [model.graph.initializers[f"n.{part}"].const_value.numpy() for part in "gsmv"]
    gain, shift, mean, variance = (part.astype(np.float64) for part in parts)
    weights = model.graph.initializers["c.weight"].const_value.numpy().astype(np.float64)
    passes.FuseNormalisation()(model)
    conv = model.graph[0]
    scale = gain / np.sqrt(variance + 0.25)
    fused, bias = (value.const_value.numpy() for value in conv.inputs[1:])
    assert operators(model) == ["Conv"]
    assert np.array_equal(fused, (weights * scale[:, None, None, None]).astype(np.float32))
    assert np.array_equal(bias, (shift - mean * scale).astype(np.float32))


def test_normalisation_stays_where_the_convolution_is_read_twice():
    net = Net()
    conv = net.conv(net.input, "c", 3, 5)
    model = net.model(net.add("Add", net.norm(conv, "n", 5), conv))
    passes.FuseNormalisation()(model)
    assert "BatchNormalization" in operators(model)


def test_random_nodes_are_not_computed_before():
    net = Net()
    noise = net.add("RandomNormalLike", net.constant("one", np.ones((1, 3, 1, 1), np.float32)))
    model = net.model(net.add("Add", net.input, noise))
    passes.FoldConstants()(model)
    assert operators(model) == ["RandomNormalLike", "Add"]


@pytest.mark.parametrize("is_per_channel", [True, False])
def test_weight_codes_are_the_nearest_of_their_scale(is_per_channel):
    weights = np.random.default_rng(1).standard_normal((5, 4, 3, 3)).astype(np.float32)
    codes, scale = quantised_weights(weights, 0, is_per_channel=is_per_channel)
    exact = weights.astype(np.float64)
    largest = np.abs(exact).max(axis=(1, 2, 3)) if is_per_channel else np.abs(exact).max()
    assert np.allclose(scale, largest / 127, rtol=1e-7)
    steps = scale.astype(np.float64).reshape(-1, 1, 1, 1)
    assert np.abs(codes * steps - exact).max() <= steps.max() * 0.500001
    assert np.abs(codes).max() == 127


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
@pytest.mark.parametrize("kind", ["asymmetric", "symmetric"])
def test_zero_and_the_ends_of_a_range_have_codes(low, high, kind):
    steps = Steps.over(low, high, kind)
    limits = np.iinfo(steps.zero.dtype)
    for value in (0.0, low, high):
        code = np.clip(np.rint(value / steps.scale) + steps.zero, limits.min, limits.max)
        assert abs(float(steps.scale) * (code - steps.zero) - value) <= steps.scale / 2 * 1.001
    assert float(steps.scale) * (int(steps.zero) - int(steps.zero)) == 0.0


@pytest.mark.parametrize("kind", ["asymmetric", "symmetric"])
def test_rounded_convolution_is_its_definition(tmp_path, kind):
    net = Net()
    shift = net.weights("shift", 5)
    x = net.add("Conv", net.input, net.weights("c.weight", 5, 3, 1, 1), shift)
    x = net.add("Neg", net.add("Relu", x))
    path = save(net.model(x), tmp_path / "net.onnx")
    np.save(tmp_path / "images.npy", samples())
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'weights = "int8"\nactivations = "{kind}"\ncovered = 1.0\n')
    autoglm.compress_graph(
        path, recipe, out=tmp_path / "out.onnx", calibration=tmp_path / "images.npy"
    )
    got = outputs(tmp_path / "out.onnx", samples())

    def rounded(values: np.ndarray) -> np.ndarray:
        parts = np.split(values.reshape(40, -1), [32])  # ranges are means over batches of 32
        low, high = (np.mean([f(part) for part in parts]) for f in (np.min, np.max))
        steps = Steps.over(low, high, kind)
        limits = np.iinfo(steps.zero.dtype)
        codes = np.clip(np.rint(values / float(steps.scale)) + steps.zero, limits.min, limits.max)
        return float(steps.scale) * (codes - float(steps.zero)), float(steps.scale)

    model = ir.load(path)
    weights, bias = (
        model.graph.initializers[name].const_value.numpy() for name in ("c.weight", "shift")
    )
    codes, scale = quantised_weights(weights, 0, is_per_channel=True)
    x, x_scale = rounded(samples().astype(np.float64))
    product = scale.astype(np.float64) * x_scale
    shift = np.rint(bias / product) * product
    exact = np.einsum("oi,bihw->bohw", (codes * scale[:, None, None, None])[:, :, 0, 0], x)
    exact = np.maximum(exact + shift[:, None, None], 0.0)
    floats = np.einsum("oi,bihw->bohw", weights[:, :, 0, 0], samples()) + bias[:, None, None]
    parts = np.split(np.maximum(floats, 0).reshape(40, -1), [32])
    high = np.mean([part.max() for part in parts])
    step = Steps.over(0.0, high, kind)
    wanted = np.clip(np.rint(exact / float(step.scale)), 0, np.iinfo(step.zero.dtype).max)
    # A sum that lies between two codes may fall to either in single precision.
    steps_apart = np.abs(-got / float(step.scale) - wanted)
    assert steps_apart.max() < 1.01
    assert (steps_apart > 0.01).mean() < 1e-3


def test_eight_bits_keep_outputs_and_quarter_the_weights(network, images, tmp_path):
    made = autoglm.compress_graph(network, out=tmp_path / "out.onnx", calibration=images)
    whole, rounded = outputs(network, samples(seed=5)), outputs(made.path, samples(seed=5))
    assert np.abs(rounded - whole).max() < 0.05 * np.abs(whole).max()
    assert made.largest_difference is not None and 0 < made.largest_difference < 0.05
    stored = [value.const_value for value in ir.load(made.path).graph.initializers.values()]
    assert all(len(tensor.shape) < 2 for tensor in stored if tensor.dtype == ir.DataType.FLOAT)
    # Rounding clips at zero as well, and ONNX Runtime joins the sum with its rounding then.
    assert "Relu" not in operators(ir.load(made.path))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 3, SIDE, 9), np.float32), r"reads \['any', 3, 8, 8\] of float32"),
        (np.zeros((4, 3, SIDE, SIDE), np.float64), "type float64"),
        (np.zeros((0, 3, SIDE, SIDE), np.float32), "has shape"),
        (np.full((4, 3, SIDE, SIDE), np.nan, np.float32), "holds NaN or infinity"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(network, tmp_path, array, message):
    np.save(tmp_path / "wrong.npy", array)
    with pytest.raises(InputError, match=message):
        autoglm.compress_graph(network, out=tmp_path / "o.onnx", calibration=tmp_path / "wrong.npy")
    assert not (tmp_path / "o.onnx").exists()


def test_missing_array_is_named(network, tmp_path):
    np.savez(tmp_path / "other.npz", pictures=samples())
    with pytest.raises(InputError, match="has no array 'images'"):
        autoglm.compress_graph(network, out=tmp_path / "o.onnx", calibration=tmp_path / "other.npz")


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x0a" * 200])
def test_what_is_no_network_is_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelFileError):
        autoglm.compress_graph(tmp_path / "net.onnx", "graph-fused", out=tmp_path / "o.onnx")
    with pytest.raises(ModelNotFoundError, match="there is no such file"):
        autoglm.compress_graph(tmp_path / "none.onnx", "graph-fused", out=tmp_path / "o.onnx")


def test_broken_bytes_are_read_or_refused(network, tmp_path):
    data = network.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        broken = bytearray(data[: rng.integers(1, len(data))] if trial % 3 == 0 else data)
        for place in rng.integers(0, len(broken), 4):
            broken[place] = rng.integers(0, 256)
        (tmp_path / "broken.onnx").write_bytes(broken)
        out = tmp_path / f"o{trial}.onnx"
        try:
            autoglm.compress_graph(tmp_path / "broken.onnx", "graph-fused", out=out)
        except ModelFileError:
            assert not out.exists()


def test_weight_that_is_not_a_number_is_named(tmp_path):
    model = residual()
    weights = model.graph.initializers["c2.weight"]
    array = weights.const_value.numpy().copy()
    array[0, 0, 0, 0] = np.inf
    weights.const_value = ir.tensor(array, name="c2.weight")
    save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match=r"'c2\.weight' holds NaN or infinity"):
        autoglm.compress_graph(tmp_path / "net.onnx", "graph-fused", out=tmp_path / "o.onnx")


def test_weights_in_files_beside_are_read_and_those_elsewhere_refused(network, tmp_path):
    (tmp_path / "apart").mkdir()
    ir.save(ir.load(network), tmp_path / "apart/net.onnx", external_data="net.data")
    autoglm.compress_graph(network, "graph-fused", out=tmp_path / "whole.onnx")
    autoglm.compress_graph(tmp_path / "apart/net.onnx", "graph-fused", out=tmp_path / "own.onnx")
    assert np.array_equal(
        outputs(tmp_path / "own.onnx", samples()), outputs(tmp_path / "whole.onnx", samples())
    )
    data = (tmp_path / "apart/net.onnx").read_bytes()
    (tmp_path / "apart/net.onnx").write_bytes(data.replace(b"net.data", b"../n.dat"))
    (tmp_path / "n.dat").write_bytes((tmp_path / "apart/net.data").read_bytes())
    with pytest.raises(ModelFileError, match=r"'\.\./n\.dat' is not the name of a file"):
        autoglm.compress_graph(tmp_path / "apart/net.onnx", "graph-fused", out=tmp_path / "o.onnx")


def test_operators_too_old_for_eight_bits_are_refused(images, tmp_path):
    net = Net(opset=11)
    save(net.model(net.conv(net.input, "c", 3, 5)), tmp_path / "old.onnx")
    with pytest.raises(UnsupportedModelError, match="version 11"):
        autoglm.compress_graph(tmp_path / "old.onnx", out=tmp_path / "o.onnx", calibration=images)


def test_network_without_weights_has_nothing_to_round(images, tmp_path):
    net = Net()
    save(net.model(net.add("Relu", net.input)), tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="no convolution or matrix"):
        autoglm.compress_graph(tmp_path / "none.onnx", out=tmp_path / "o.onnx", calibration=images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('weights = "int8"\nbits = 4\n', "unknown key 'bits'"),
        ('weights = "int4"\n', "'weights'"),
        ('weights = "fp32"\ncovered = 0.99\n', "need 'weights'"),
        ('weights = "int8"\ncovered = 0.5\n', "'covered'"),
        ('weights = "int8"\ngranularity = "row"\n', "'granularity'"),
    ],
)
def test_wrong_recipe_is_refused_with_the_key(network, images, tmp_path, content, message):
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(UsageError, match=message):
        autoglm.compress_graph(
            network, tmp_path / "mine.toml", out=tmp_path / "o.onnx", calibration=images
        )


def test_ranges_need_inputs_and_outputs_are_not_overwritten(network, tmp_path):
    with pytest.raises(UsageError, match="graph-int8 measures ranges"):
        autoglm.compress_graph(network, out=tmp_path / "o.onnx")
    with pytest.raises(StorageError, match="exists already"):
        autoglm.compress_graph(network, "graph-fused", out=network)


def test_command_reports_what_it_wrote(network, images, tmp_path):
    command = [sys.executable, "-m", "autoglm", "compress", str(network), "--json"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "o.onnx"), "--calibration", str(images)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    report = json.loads(done.stdout)
    assert report["recipe"] == "graph-int8"
    assert report["network_bytes"] == (tmp_path / "o.onnx").stat().st_size
