"""Give a model the circuit that copies from the context, instead of waiting for it to emerge.

Two layers suffice (Olsson et al., arXiv 2209.11895): heads of the first write a code of the current
and of the previous token into free directions of the residual stream; a head of a late layer finds
the places where the previous token was the current one and predicts what stood there. Small models
with little data form this late; set by hand it is there early and training refines it.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from autoglm.lite.checkpoint import load_checkpoint
from autoglm.lite.model import Block, LiteConfig, LiteModel

_PEAK = 12.0  # attention score of the wanted offset above none, per frequency
_FAST_FREQUENCIES = 6
_SLOW_PAIRS = 3  # rotary pairs slow enough to carry content over a context


@dataclass(frozen=True, slots=True)
class Gains:
    """Codes in units of the residual after layer 0, score of a match, copy in final units."""

    code: float = 0.2
    match: float = 18.0
    copy: float = 3.0


@dataclass(frozen=True, slots=True)
class _Bases:
    """Directions of the residual stream with one job each."""

    constant: Tensor  # [hidden], the same value for every token
    code: Tensor  # [code, hidden], reads a token's code from its normed embedding
    current: Tensor  # [code, hidden], where the code of the current token is written
    previous: Tensor  # [code, hidden], where the code of the previous token is written


@dataclass(frozen=True, slots=True)
class Circuit:
    """What training must leave alone for the circuit to live.

    Muon moves every direction of a matrix at the same rate, which washes out the addressing within
    some tens of steps. What is copied, and how strongly, stays trainable.
    """

    fixed: dict[str, list[tuple[int, int, int]]]  # by parameter: (dimension, start, stop)
    reserved: Tensor  # [directions, hidden] of the residual stream, for the codes alone

    def hold(self, model: LiteModel, before: dict[str, Tensor]) -> None:
        """Undo what an update did to the circuit; `before` is `values` of the model before it."""
        with torch.no_grad():
            for block in list(model.blocks)[: model.config.num_layers - 2]:
                for weight in (block.o.weight, block.down.weight):
                    weight -= self.reserved.t() @ (self.reserved @ weight)
            for name, view in self.values(model).items():
                view.copy_(before[name])

    def values(self, model: LiteModel) -> dict[str, Tensor]:
        """Views of the fixed slices, by parameter and place."""
        parameters = dict(model.named_parameters())
        return {
            f"{name}[{place}]": parameters[name].data.narrow(
                place[0], place[1], place[2] - place[1]
            )
            for name, places in self.fixed.items()
            for place in places
        }


def install(model: LiteModel, gains: Gains, generator: torch.Generator) -> Circuit:
    """Set the circuit in the first and the last layer but one, in place; the rest stays."""
    with torch.no_grad():
        bases = _bases(model, generator)
        _write_codes(model, bases, gains)
        _find_and_copy(model, bases, gains)
    return Circuit(_fixed(model.config), torch.cat([bases.previous, bases.current]))


def _fixed(config: LiteConfig) -> dict[str, list[tuple[int, int, int]]]:
    size, last = config.head_dim, config.num_layers - 2
    key = _kv_rows(config, 0, is_value=False)
    value = _kv_rows(config, 0, is_value=True)
    return {
        "blocks.0.qkv.weight": [
            (0, 0, 2 * size),
            (0, key.start, key.stop),
            (0, value.start, value.stop),
        ],
        "blocks.0.o.weight": [(1, 0, 2 * size)],
        f"blocks.{last}.qkv.weight": [(0, 0, size), (0, key.start, key.stop)],
    }


def _bases(model: LiteModel, generator: torch.Generator) -> _Bases:
    """Pick directions by the spectrum of the embeddings and add the constant one to them.

    A vector added to every embedding shifts all logits alike, so the output does not change.
    """
    size = model.config.head_dim
    table = model.embed.weight
    centred = table - table.mean(0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
    constant = axes[-1]
    table += (centred.norm(dim=1).median() - table @ constant)[:, None] * constant
    quiet = _quiet_directions(model, constant, 2 * size)
    loud = slice(8, model.config.hidden_size - 1 - 2 * size)
    mixing = torch.randn(size, axes[loud].shape[0], generator=generator)
    mixing = torch.linalg.qr(mixing.t()).Q.t()
    code = mixing @ (axes[loud] / spread[loud, None])
    normed = model.blocks[0].input_norm(table)
    code /= (normed @ code.t()).std()
    return _Bases(constant, code / model.blocks[0].input_norm.weight, quiet[:size], quiet[size:])


def _quiet_directions(model: LiteModel, constant: Tensor, count: int) -> Tensor:
    """Directions in which the residual stream moves least, over the layers the codes must cross."""
    layers = range(1, model.config.num_layers - 1)
    states = torch.cat([_states_before(model, layer) for layer in layers])
    states = states / states.norm(dim=1, keepdim=True)
    states = torch.cat([states, constant[None] * states.shape[0]])  # keeps it out of the choice
    return torch.linalg.svd(states, full_matrices=False).Vh[-count:]


def _rows(config: LiteConfig, head: int) -> slice:
    return slice(head * config.head_dim, (head + 1) * config.head_dim)


def _kv_rows(config: LiteConfig, head: int, *, is_value: bool) -> slice:
    start = config.num_heads * config.head_dim
    start += (config.num_kv_heads if is_value else 0) * config.head_dim
    return slice(start + head * config.head_dim, start + (head + 1) * config.head_dim)


def _write_codes(model: LiteModel, bases: _Bases, gains: Gains) -> None:
    """Head 0 of layer 0 looks one token back, head 1 at the token itself; both write its code."""
    config, block = model.config, model.blocks[0]
    _clear_group(config, block, 0)
    weight = block.qkv.weight
    normed = block.input_norm(model.embed.weight)
    unit = bases.constant / (normed @ bases.constant).median()
    omega = config.rope_theta ** (
        -torch.arange(0, config.rotary_dim, 2).float() / config.rotary_dim
    )
    size = (_PEAK * config.head_dim**0.5) ** 0.5
    queries, keys = weight[_rows(config, 0)], weight[_kv_rows(config, 0, is_value=False)]
    itself = weight[_rows(config, 1)]
    for pair in range(_FAST_FREQUENCIES):
        angle = omega[pair]
        queries[2 * pair] = size * unit
        keys[2 * pair], keys[2 * pair + 1] = size * angle.cos() * unit, size * angle.sin() * unit
        itself[2 * pair], itself[2 * pair + 1] = keys[2 * pair], keys[2 * pair + 1]
    weight[_kv_rows(config, 0, is_value=True)] = bases.code
    scale = gains.code * float(_states_before(model, 1).square().mean().sqrt())
    block.o.weight[:, _rows(config, 0)] = scale * bases.previous.t()
    block.o.weight[:, _rows(config, 1)] = scale * bases.current.t()
    _reserve(model, bases)


def _reserve(model: LiteModel, bases: _Bases) -> None:
    """Nobody else writes where the codes stand, up to the layer that reads them."""
    config = model.config
    free = torch.cat([bases.previous, bases.current])
    project = free.t() @ free
    for index, block in enumerate(list(model.blocks)[: config.num_layers - 2]):
        others = slice(2 * config.head_dim if index == 0 else 0, None)
        block.o.weight[:, others] -= project @ block.o.weight[:, others]
        block.down.weight -= project @ block.down.weight


def _clear_group(config: LiteConfig, block: Block, group: int) -> None:
    """Zero the query, key, value and output weights of one key-value group."""
    heads = config.num_heads // config.num_kv_heads
    for head in range(group * heads, (group + 1) * heads):
        block.qkv.weight[_rows(config, head)] = 0
        block.o.weight[:, _rows(config, head)] = 0
    for is_value in (False, True):
        block.qkv.weight[_kv_rows(config, group, is_value=is_value)] = 0


def _find_and_copy(model: LiteModel, bases: _Bases, gains: Gains) -> None:
    """Head 0 of a late layer matches the current code with previous codes, copies what it finds."""
    config = model.config
    layer = config.num_layers - 2
    block = model.blocks[layer]
    _clear_group(config, block, 0)
    weight = block.qkv.weight
    states = _states_before(model, layer)
    gain = block.input_norm.weight
    normed = block.input_norm(states)
    current, previous = bases.current / gain, bases.previous / gain
    spread = float((normed @ current.t()).std())
    slots = torch.cat(
        [
            torch.arange(config.rotary_dim - 2 * _SLOW_PAIRS, config.rotary_dim),
            torch.arange(config.rotary_dim, config.head_dim),
        ]
    )
    # Codes have unit variance, so a match scores `match` and chance has that over sqrt(slots).
    size = (gains.match * config.head_dim**0.5 / len(slots)) ** 0.5 / spread
    weight[_rows(config, 0)][slots] = size * current[: len(slots)]
    weight[_kv_rows(config, 0, is_value=False)][slots] = size * previous[: len(slots)]
    weight[_kv_rows(config, 0, is_value=True)] = current / spread
    table = model.embed.weight - model.embed.weight.mean(0)
    codes = model.blocks[0].input_norm(model.embed.weight) @ bases.code.t()
    decode = torch.linalg.lstsq(table, codes - codes.mean(0)).solution  # [hidden, code]
    decode /= decode.norm(dim=0).mean()
    rms = float(_states_before(model, config.num_layers).square().mean().sqrt())
    block.o.weight[:, _rows(config, 0)] = gains.copy * rms * decode


def _states_before(model: LiteModel, layer: int) -> Tensor:
    """Residual states before a layer, [tokens, hidden], on random ids."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(16, model.config.vocab_size, (4, 128), generator=generator)
    x = model.embed(ids)
    for block in list(model.blocks)[:layer]:
        x = block(x, model.cos[:128], model.sin[:128])
    return x.flatten(0, 1)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--code", type=float, default=Gains().code)
    parser.add_argument("--match", type=float, default=Gains().match)
    parser.add_argument("--copy", type=float, default=Gains().copy)
    args = parser.parse_args()
    model = load_checkpoint(args.checkpoint)
    gains = Gains(args.code, args.match, args.copy)
    circuit = install(model, gains, torch.Generator().manual_seed(args.seed))
    state = {"config": model.config.as_dict(), "model": model.state_dict()}
    torch.save(state | {"circuit": asdict(circuit)}, args.out)


if __name__ == "__main__":
    main()
