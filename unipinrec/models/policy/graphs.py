"""What a bundle holds of a policy: one ONNX graph, which needs no PyTorch to run.

Shapes: K arms.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unipinrec.data.history import History
from unipinrec.models.common.exports import Exports, Graph, OnnxNames
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.files import GRAPH
from unipinrec.models.policy.module import PolicyGraph, StateTensors, ValueNetwork
from unipinrec.models.policy.state import DAY_S, policy_state, stack_states

EVENTS = ("requests", "events")
NAMES = OnnxNames(
    inputs={
        "item_row": EVENTS,
        "event_actions": EVENTS,
        "event_surface": EVENTS,
        "event_time": EVENTS,
        "is_event": EVENTS,
        "user": ("requests",),
        "context": ("requests",),
        "surface": ("requests",),
        "arm_places": ("arms",),
    },
    output="value",
)
"""`unipinrec.models.policy.state.inputs_of` describes the inputs. `arm_places`, float32 [K, 2], says where in
its range each weight is (`Arms.places`); `value` has the expected rewards, float32 [requests, K, 2]."""


def policy_exports(model: ValueNetwork) -> Exports:
    """Return the graph, compared with eager on full, empty and mixed histories, many requests and one."""
    longest, arms = model.config.max_history, len(model.config.arms)
    sizes = [([longest] * 16, arms), ([0, 1, longest // 2, longest] * 4, 2), ([longest], arms), ([0], 1)]
    calls = [probe(model.config, lengths, arms, seed) for seed, (lengths, arms) in enumerate(sizes, start=1)]
    return Exports({GRAPH: Graph(PolicyGraph(model), calls, NAMES)})


def probe(config: PolicyConfig, lengths: Sequence[int], arms: int, seed: int) -> tuple[Tensor, ...]:
    """Return inputs of random histories of these lengths, and of so many arms."""
    draw = np.random.default_rng(seed)
    now = 1_700_000_000 + int(draw.integers(7 * DAY_S))
    states = [
        policy_state(
            History(
                item_row_N=draw.integers(config.num_items, size=length),
                actions_N=draw.integers(2**config.num_actions, size=length),
                timestamp_N=now - np.sort(draw.integers(1, 60 * DAY_S, size=length))[::-1],
                surface_N=draw.integers(config.num_surfaces, size=length),
            ),
            now,
            int(draw.integers(config.num_surfaces)),
            config,
        )
        for length in lengths
    ]
    place_K2 = torch.from_numpy(draw.random((arms, 2), np.float32))
    return (*StateTensors.of(stack_states(states, config)), place_K2)
