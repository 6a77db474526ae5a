"""Compares an exported graph with eager PyTorch before it may enter a bundle.

Shapes: B requests, N events, T = N + 1 positions, K candidates, E item width.
"""

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

    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]
    retrieval_head: tuple[Tensor, ...]
    ranking_head: tuple[Tensor, Tensor, Tensor, list[Tensor]]


def probe(config: ModelConfig, lengths: tuple[int, ...], candidates: int, seed: int) -> Probe:
    """Make inputs in the ranges that serving sees."""
    draw = torch.Generator().manual_seed(seed)
    batch, events = len(lengths), max(lengths)

    def vectors(count: int) -> Tensor:
        return nn.functional.normalize(torch.randn(batch, count, config.item_dim, generator=draw), dim=-1)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=draw)

    length_B = torch.tensor(lengths)
    timestamp_BN = 1_600_000_000 + integers(90_000, batch, events + 1).cumsum(1)
    cache_shape = (config.layers, 2, config.heads, config.max_positions, config.head_dim)
    cache = torch.randn(batch, *cache_shape, generator=draw)
    caches = [cache[row, :, :, :, : length + 1] for row, length in enumerate(lengths)]
    now_B = timestamp_BN[:, -1]
    surface_B = integers(config.num_surfaces, batch)
    return Probe(
        encoder=(
            vectors(events),
            integers(2**config.num_actions, batch, events),
            timestamp_BN[:, :events],
            integers(config.num_surfaces, batch, events),
            length_B,
        ),
        decoder=(
            vectors(1)[:, 0],
            now_B,
            surface_B,
            now_B - 60,
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
    """The largest absolute difference of all outputs.

    Raises:
        ExportMismatchError: shapes differ, or a difference is above `TOLERANCE` or not a number.
    """
    with torch.inference_mode():
        expected_outputs = _tensors(eager(*inputs))
        pairs = [
            pair
            for _ in range(RUNS)
            for pair in zip(_tensors(exported(*inputs)), expected_outputs, strict=True)
        ]
    largest = 0.0
    for found, expected in pairs:
        if found.shape != expected.shape:
            raise ExportMismatchError(
                f"{name} has shape {tuple(found.shape)}; allowed: {tuple(expected.shape)}, as eager has"
            )
        difference = float((found - expected).abs().max())
        if not difference <= TOLERANCE:
            raise ExportMismatchError(
                f"{name} differs from eager by {difference:.2e}; allowed: 0 to {TOLERANCE:.0e}"
            )
        largest = max(largest, difference)
    return largest


def _tensors(output: object) -> tuple[Tensor, ...]:
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, tuple):
        return tuple(part for part in output if isinstance(part, Tensor))
    raise TypeError(f"a graph returned {type(output).__name__}; expected tensors")
