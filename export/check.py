"""Compares an exported graph with eager PyTorch before it may enter a bundle.

Shapes: B requests, N events, T = N + 1 positions, K candidates, E item width.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unipinrec.config import ModelConfig

TOLERANCE = 1e-5
"""Largest difference between an exported graph and eager, in float32."""

RUNS = 3
"""TorchScript rewrites a graph after its first runs, so that one run alone would not show what is served."""


class ExportMismatchError(Exception):
    """An exported graph answers differently from eager PyTorch."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Random inputs of every graph, for one batch size, history lengths and candidate count."""

    encoder: tuple[Tensor | list[int] | list[Tensor], ...]
    retrieval_head: tuple[Tensor, ...]
    ranking_head: tuple[Tensor, Tensor, Tensor, list[Tensor]]


def probe(config: ModelConfig, lengths: tuple[int, ...], candidates: int, seed: int) -> Probe:
    """Make inputs in the ranges that serving sees."""
    draw = torch.Generator().manual_seed(seed)
    batch = len(lengths)

    def vectors(count: int) -> Tensor:
        return nn.functional.normalize(torch.randn(batch, count, config.item_dim, generator=draw), dim=-1)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=draw)

    cache_shape = (config.layers, 2, config.heads, config.max_positions, config.head_dim)
    cache = torch.randn(batch, *cache_shape, generator=draw)
    caches = [cache[row, :, :, :, : length + 1] for row, length in enumerate(lengths)]
    now_B = 1_600_000_000 + integers(90_000, batch)
    surface_B = integers(config.num_surfaces, batch)
    # A third of each history is cached already, and BOS with it where anything is.
    cached = [length // 3 for length in lengths]
    count = [length + 1 - old for length, old in zip(lengths, cached, strict=True)]
    position_X = torch.cat([torch.arange(old, old + new) for old, new in zip(cached, count, strict=True)])
    packed = len(position_X)
    timestamp_X = 1_600_000_000 + integers(90_000, packed)
    return Probe(
        encoder=(
            vectors(packed)[0],
            integers(2**config.num_actions, packed),
            integers(10, packed) == 0,
            timestamp_X,
            timestamp_X - integers(90_000, packed),
            integers(config.num_surfaces, packed),
            position_X,
            [0, *torch.tensor(count).cumsum(0).tolist()][:-1],
            cached,
            count,
            caches,
        ),
        retrieval_head=(
            torch.randn(batch, config.width, generator=draw),
            now_B,
            surface_B,
            integers(config.num_actions + 1, batch),
            integers(len(config.time_offsets_s), batch),
        ),
        ranking_head=(
            vectors(candidates),
            now_B,
            surface_B,
            caches,
        ),
    )


def refuse_if_different(
    name: str, exported: Callable[..., object], eager: nn.Module, inputs: tuple[object, ...]
) -> float:
    """The largest absolute difference of all outputs, and of what was written into the inputs.

    Raises:
        ExportMismatchError: shapes differ, or a difference is above `TOLERANCE` or not a number.
    """
    with torch.inference_mode():
        expected = _tensors(_run(eager, inputs))
        pairs = [
            pair for _ in range(RUNS) for pair in zip(_tensors(_run(exported, inputs)), expected, strict=True)
        ]
    largest = 0.0
    for found, right in pairs:
        if found.shape != right.shape:
            raise ExportMismatchError(
                f"{name} has shape {tuple(found.shape)}; allowed: {tuple(right.shape)}, as eager has"
            )
        difference = float((found - right).abs().max())
        if not difference <= TOLERANCE:
            raise ExportMismatchError(
                f"{name} differs from eager by {difference:.2e}; allowed: 0 to {TOLERANCE:.0e}"
            )
        largest = max(largest, difference)
    return largest


def _run(graph: Callable[..., object], inputs: tuple[object, ...]) -> tuple[object, ...]:
    """What a graph returns, and copies of the inputs as it leaves them."""
    copies = copy.deepcopy(inputs)
    return (graph(*copies), *copies)


def _tensors(value: object) -> list[Tensor]:
    """All floating tensors within nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple | list) else []
