"""The value of an arm depends on the request and the arm, and on nothing that happens to share a batch."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.explored import ACTIONS, ARMS, SURFACES
from unipinrec.data.history import History
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.module import PolicyGraph, StateTensors, ValueNetwork
from unipinrec.models.policy.offline import OfflinePolicy
from unipinrec.models.policy.state import PolicyState, policy_state, stack_states

NOW = 1_700_000_000
CONFIG = PolicyConfig(
    num_items=20, num_actions=len(ACTIONS), num_surfaces=len(SURFACES), arms=ARMS, width=16, max_history=10
)
LAST_BITS = 1e-5
"""Of float32 through four layers, as an export may differ from eager."""


@pytest.fixture(scope="module")
def network() -> ValueNetwork:
    """Random weights, and statistics of batches as training leaves them."""
    torch.manual_seed(0)
    network = ValueNetwork(CONFIG)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    for seed in range(20):
        network(tensors(states([10, 0, 3, 7] * 8, seed)), torch.rand(32, 2))
    return network.eval()


def states(lengths: Sequence[int], seed: int = 1) -> list[PolicyState]:
    draw = np.random.default_rng(seed)
    made = []
    for length in lengths:
        history = History(
            item_row_N=draw.integers(20, size=length),
            actions_N=draw.integers(8, size=length),
            timestamp_N=NOW - np.sort(draw.integers(1, 5_000_000, size=length))[::-1],
            surface_N=draw.integers(2, size=length),
        )
        made.append(policy_state(history, NOW + int(draw.integers(100_000)), int(draw.integers(2)), CONFIG))
    return made


def tensors(made: Sequence[PolicyState]) -> StateTensors:
    return StateTensors.of(stack_states(made, CONFIG))


def values(network: ValueNetwork, made: Sequence[PolicyState], places: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        chosen = torch.from_numpy(ARMS.places().astype(np.float32)) if places is None else places
        return PolicyGraph(network).eval()(*tensors(made), chosen)


def test_a_requests_values_do_not_depend_on_its_company(network: ValueNetwork) -> None:
    made = states([0, 10, 1, 4, 0, 9])
    together = values(network, made)
    assert together.shape == (6, len(ARMS), 2)
    for row, state in enumerate(made):
        assert (values(network, [state])[0] - together[row]).abs().max() < LAST_BITS
    order = [3, 0, 5, 1, 4, 2]
    assert (values(network, [made[row] for row in order]) - together[order]).abs().max() < LAST_BITS


def test_what_stands_in_padding_changes_nothing(network: ValueNetwork) -> None:
    state = tensors(states([3, 10]))
    graph, places = PolicyGraph(network).eval(), torch.rand(4, 2)
    with torch.inference_mode():
        expected = graph(*state, places)
        state.item_row_BN[0, 3:] = 11
        state.event_actions_BNA[0, 3:] = 1.0
        state.event_surface_BN[0, 3:] = 1
        state.event_time_BNT[0, 3:] = 0.7
        assert torch.equal(graph(*state, places), expected)
        state.event_actions_BNA[0, 2] = 1 - state.event_actions_BNA[0, 2]
        assert not torch.equal(graph(*state, places)[0], expected[0])


def test_arms_are_valued_one_by_one(network: ValueNetwork) -> None:
    """So arms off the grid work, and their order does not matter."""
    made, places = states([2, 8, 5]), torch.rand(7, 2)
    all_BKM = values(network, made, places)
    order = torch.randperm(7)
    assert (values(network, made, places[order]) - all_BKM[:, order]).abs().max() < LAST_BITS
    with torch.inference_mode():
        for arm in range(7):
            # As training asks: one arm a request, vectors by the embedder.
            logged_BM = network(tensors(made), places[arm].expand(3, 2))
            assert (logged_BM - all_BKM[:, arm]).abs().max() < LAST_BITS


@pytest.mark.parametrize("what", ["item_row_N", "actions_N", "timestamp_N", "surface_N"])
def test_every_part_of_an_event_counts(network: ValueNetwork, what: str) -> None:
    (state,) = states([6])
    other = {
        name: getattr(state.events, name).copy()
        for name in ("item_row_N", "actions_N", "timestamp_N", "surface_N")
    }
    other[what][2] = {"item_row_N": 17, "actions_N": 7, "surface_N": 1 - other["surface_N"][2]}.get(
        what, other[what][1]
    )
    changed = PolicyState(History(**other), state.request_time, state.surface)
    assert (values(network, [state]) - values(network, [changed])).abs().max() > LAST_BITS


def test_time_and_surface_of_the_request_count(network: ValueNetwork) -> None:
    (state,) = states([0])
    expected = values(network, [state])
    for other in (
        PolicyState(state.events, state.request_time + 40_000, state.surface),
        PolicyState(state.events, state.request_time, 1 - state.surface),
    ):
        assert (values(network, [other]) - expected).abs().max() > LAST_BITS


def test_offline_values_are_the_graphs_at_the_arms_of_the_grid(network: ValueNetwork) -> None:
    made = states([4, 0, 10])
    offline = OfflinePolicy(network)
    np.testing.assert_allclose(offline.values(made), values(network, made).numpy(), atol=LAST_BITS)
    assert offline.values([]).shape == (0, len(ARMS), 2)


def test_the_head_starts_at_the_mean_rewards() -> None:
    torch.manual_seed(1)
    network = ValueNetwork(CONFIG)
    network.head.start_at(np.array([0.9, 0.02]))
    found_M = values(network.eval(), states([5] * 20)).mean((0, 1))
    assert (found_M - torch.tensor([0.9, 0.02])).abs().max() < 0.01
