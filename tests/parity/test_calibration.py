"""The forward pass of calibration gives the hidden states of the engine, for every dense family."""

import numpy as np

from autoglm.compression.codes import unpack
from autoglm.compression.forward import LayerForward, product_with, rms_norm
from autoglm.modelfile.bundle import read_bundle_config
from autoglm.modelfile.layout import EMBEDDING, FINAL_NORM, HEAD, Matrix
from autoglm.modelfile.packing import packed_tensors
from autoglm.modelfile.safetensors import TensorFile

# Float32 sums in another order.
TOLERANCE = 2e-5


def test_layers_give_the_logits_of_the_engine(dense_name, make_case, start):
    case = make_case(dense_name)
    bundle = case.bundle("fp32")
    _, arch, packing = read_bundle_config(bundle.path)
    config = arch.config
    matrices, vectors = {}, {}
    with TensorFile(bundle.files[0]) as file:
        for tensor in packed_tensors(arch, packing):
            parts = [
                file.read(stored, 0, stored.nbytes)
                for spec in tensor.parts()
                if (stored := file.header.tensors.get(spec.name))
            ]
            if isinstance(tensor, Matrix):
                matrices[tensor.name] = unpack(parts, "fp32", tensor.rows, tensor.cols)
            elif parts:
                vectors[tensor.name] = np.frombuffer(parts[0], np.float32)
    ids = np.array([case.ids[:300], case.ids[300:600]])
    hidden = matrices[EMBEDDING][ids]
    forward = LayerForward(config, ids.shape[1])
    for layer in range(config.num_layers):
        forward.run(
            f"model.layers.{layer}.",
            hidden,
            vectors.get,
            lambda name, _: product_with(matrices[name]),
        )
    head = matrices[EMBEDDING if config.tie_word_embeddings else HEAD]
    for sequence, states in zip(ids, hidden, strict=True):
        ours = rms_norm(states, vectors[FINAL_NORM], config.rms_norm_eps) @ head.T
        engine = start(bundle)().logits(sequence.tolist())
        assert np.abs(ours - engine).max() <= TOLERANCE * np.abs(engine).max()
