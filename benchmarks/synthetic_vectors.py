"""Synthetic unit vectors that lie as learned item embeddings do.

Shapes: V items, Q queries, C clusters, E width.
"""

from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GENERATOR = (
    "synthetic: .75 of a common direction, plus cluster centre and item noise, both normal with variance "
    "1 / (j + 1) in coordinate j, their deviations as 1 to `noise`; sqrt(V) clusters, sizes as rank^-.7; "
    "normalised"
)

COMMON = 0.75
LEARNED_NOISE = 0.8
CLUSTER_SIZE_EXPONENT = 0.7
CHUNK = 65_536


class ItemsAndQueries(NamedTuple):
    """Both from one mixture; no query is an item."""

    vector_VE: Floats
    query_QE: Floats


def draw_clustered(
    items: int, queries: int, width: int, seed: int, noise: float = LEARNED_NOISE
) -> ItemsAndQueries:
    """Unit vectors of a mixture of clusters in a narrow cone.

    Uniform ones would be about equally far from each other, and no approximate index could find any. The
    constants follow the 1,682 vectors of width 64 that `make demo` learns from MovieLens 100K, whose mean has
    length .75 and whose median cosines are .88, .84 and .78 to the 1st, 10th and 100th neighbour and .58 to
    any other; here, with 10,000 items of width 128: .76, and .91, .89, .81 and .59.

    `noise` is how far items lie from their centres, over how far the centres lie apart.
    """
    draw = np.random.default_rng(seed)
    scale_E = (np.arange(width) + 1.0) ** -0.5
    scale_E *= np.sqrt((1 - COMMON**2) / (1 + noise**2)) / np.linalg.norm(scale_E)
    direction_E = draw.normal(size=width)
    direction_E *= COMMON / np.linalg.norm(direction_E)
    centre_CE = direction_E + scale_E * draw.normal(size=(max(16, isqrt(items)), width))
    share_C = (np.arange(len(centre_CE)) + 1.0) ** -CLUSTER_SIZE_EXPONENT
    share_C /= share_C.sum()

    def sample(count: int) -> Floats:
        vectors = np.empty((count, width), np.float32)
        for start in range(0, count, CHUNK):
            part = vectors[start : start + CHUNK]
            centre = centre_CE[draw.choice(len(centre_CE), size=len(part), p=share_C)]
            drawn = centre + noise * scale_E * draw.normal(size=part.shape)
            part[:] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return vectors

    return ItemsAndQueries(sample(items), sample(queries))
