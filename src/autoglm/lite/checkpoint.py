"""Weights on disk between runs; needs torch alone, so that any machine with torch can train."""

from pathlib import Path

import torch

from autoglm.lite.model import LiteConfig, LiteModel


def load_checkpoint(path: Path) -> LiteModel:
    """The model of a training checkpoint or of saved weights, on the CPU in float32."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = LiteModel(LiteConfig(**state["config"]))
    model.load_state_dict(state["model"])
    return model


def save_weights(model: LiteModel, path: Path) -> None:
    """Shape and bfloat16 weights only: a sixth of a checkpoint, to carry elsewhere."""
    weights = {
        name: tensor.detach().to("cpu", torch.bfloat16)
        for name, tensor in model.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    torch.save({"config": model.config.as_dict(), "model": weights}, partial)
    partial.replace(path)
