"""Both losses against loops in plain Python, and their gradients against finite differences."""

import math

import pytest
import torch
from torch import Tensor

from unipinrec.models.common.losses import SampledSoftmax, action_loss


class Draw:
    """Positions of few users over few items, so that negatives often are the positive or the same user's."""

    def __init__(self, seed: int, positions: int = 9, negatives: int = 14) -> None:
        draw = torch.Generator().manual_seed(seed)
        unit = torch.nn.functional.normalize
        item_VE = unit(torch.randn(6, 5, generator=draw, dtype=torch.float64), dim=-1)
        log_q_V = -3 * torch.rand(6, generator=draw, dtype=torch.float64)
        self.query_PE = unit(torch.randn(positions, 5, generator=draw, dtype=torch.float64), dim=-1)
        self.row_P = torch.randint(6, (positions,), generator=draw)
        self.row_X = torch.randint(6, (negatives,), generator=draw)
        user_P = torch.randint(3, (positions,), generator=draw)
        user_X = torch.randint(-1, 3, (negatives,), generator=draw)
        self.same_user_PX = user_P.unsqueeze(1) == user_X
        self.positive_PE, self.negative_XE = item_VE[self.row_P], item_VE[self.row_X]
        self.log_q_P, self.log_q_X = log_q_V[self.row_P], log_q_V[self.row_X]

    def loss(self, softmax: SampledSoftmax) -> Tensor:
        return softmax(
            self.query_PE,
            self.positive_PE.unsqueeze(1),
            self.log_q_P.unsqueeze(1),
            torch.ones(len(self.row_P), 1, dtype=torch.bool),
            self.negative_XE,
            self.log_q_X,
            self.same_user_PX | (self.row_P.unsqueeze(1) == self.row_X),
        ).mean()

    def value(self, softmax: SampledSoftmax | None = None) -> float:
        return float(self.loss(softmax or SampledSoftmax().double()).detach())

    def loss_by_hand(self, scale: float) -> float:
        """Softmax written out: exp(scale x q.i) / Q(i) of the positive over the sum with its negatives."""
        total = 0.0
        for p, query_E in enumerate(self.query_PE.tolist()):

            def weight(item_E: list[float], log_q: float, query_E: list[float] = query_E) -> float:
                dot = sum(a * b for a, b in zip(query_E, item_E, strict=True))
                return math.exp(scale * dot) / math.exp(log_q)

            positive = weight(self.positive_PE[p].tolist(), float(self.log_q_P[p]))
            everything = positive
            for x, item_E in enumerate(self.negative_XE.tolist()):
                same_item = int(self.row_P[p]) == int(self.row_X[x])
                if not same_item and not bool(self.same_user_PX[p, x]):
                    everything += weight(item_E, float(self.log_q_X[x]))
            total -= math.log(positive / everything)
        return total / len(self.query_PE)


@pytest.mark.parametrize("seed", range(5))
def test_sampled_softmax_equals_a_loop_over_positions_and_negatives(seed: int) -> None:
    found = Draw(seed).value()
    assert found == pytest.approx(Draw(seed).loss_by_hand(1 / 0.07), rel=1e-6)


def test_the_temperature_starts_at_7_percent_and_its_inverse_stops_at_100() -> None:
    softmax = SampledSoftmax().double()
    assert softmax.log_scale.item() == pytest.approx(math.log(1 / 0.07), rel=1e-6)
    for log_scale, scale in ((math.log(3.0), 3.0), (math.log(99.0), 99.0), (math.log(1e4), 100.0)):
        with torch.no_grad():
            softmax.log_scale.fill_(log_scale)
        assert Draw(1).value(softmax) == pytest.approx(Draw(1).loss_by_hand(scale), rel=1e-9)


@pytest.mark.parametrize("same", ["item", "user"])
def test_a_negative_of_the_same_item_or_user_changes_nothing(same: str) -> None:
    draw, other = Draw(2), Draw(2)
    for one in (draw, other):
        one.row_P[:] = 2
    other.negative_XE = torch.cat([other.negative_XE, torch.ones(1, 5, dtype=torch.float64)])
    other.log_q_X = torch.cat([other.log_q_X, torch.tensor([-9.0], dtype=torch.float64)])
    other.row_X = torch.cat([other.row_X, torch.tensor([2 if same == "item" else 5])])
    column = torch.full((len(other.row_P), 1), same == "user")
    other.same_user_PX = torch.cat([other.same_user_PX, column], dim=1)
    assert other.value() == draw.value()
    other.row_X[-1], other.same_user_PX[:, -1] = 5, False
    assert other.value() > draw.value() + 1


def test_positions_without_any_negative_cost_nothing_and_push_nothing() -> None:
    draw = Draw(3)
    draw.same_user_PX = torch.ones_like(draw.same_user_PX)
    draw.query_PE.requires_grad_()
    loss = draw.loss(SampledSoftmax().double())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert draw.query_PE.grad is not None
    assert draw.query_PE.grad.abs().max() < 1e-12


def test_a_rare_item_costs_more_as_a_negative_and_less_as_the_positive() -> None:
    usual = Draw(4).value()
    rare_negatives, rare_positives = Draw(4), Draw(4)
    rare_negatives.log_q_X = rare_negatives.log_q_X - 2
    rare_positives.log_q_P = rare_positives.log_q_P - 2
    assert rare_positives.value() < usual < rare_negatives.value()


def test_the_gradient_of_sampled_softmax_is_finite_where_negatives_are_left_out() -> None:
    draw = Draw(5, positions=4, negatives=6)
    softmax = SampledSoftmax().double()

    def loss(query_PE: Tensor) -> Tensor:
        draw.query_PE = query_PE
        return draw.loss(softmax)

    assert draw.same_user_PX.any()
    assert torch.autograd.gradcheck(loss, draw.query_PE.clone().requires_grad_())


@pytest.mark.parametrize("seed", range(3))
def test_with_several_targets_the_least_loss_of_those_that_count_is_taken(seed: int) -> None:
    draw, softmax = Draw(seed), SampledSoftmax().double()
    other_P = (draw.row_P + 1) % 6
    counted_PR = torch.rand(len(other_P), 2, generator=torch.Generator().manual_seed(seed)) < 0.7
    counted_PR[:, 0] |= ~counted_PR[:, 1]
    # No negative may be one of the two targets, so each target alone has the same negatives.
    left_out_PX = (draw.row_P.unsqueeze(1) == draw.row_X) | (other_P.unsqueeze(1) == draw.row_X)
    item_VE = torch.zeros(6, 5, dtype=torch.float64)
    item_VE[draw.row_P], item_VE[draw.row_X] = draw.positive_PE, draw.negative_XE

    def loss(target_PR: Tensor, counted_PR: Tensor, rows: slice = slice(None)) -> Tensor:
        zeros = torch.zeros(target_PR[rows].shape, dtype=torch.float64)
        return (
            softmax(
                draw.query_PE[rows],
                item_VE[target_PR[rows]],
                zeros,
                counted_PR[rows],
                draw.negative_XE,
                torch.zeros(len(draw.row_X), dtype=torch.float64),
                left_out_PX[rows],
            )
            .mean()
            .detach()
        )

    target_PR = torch.stack([draw.row_P, other_P], dim=1)
    least = []
    for p in range(len(other_P)):
        alone = [
            float(loss(target_PR[:, r : r + 1], torch.ones_like(counted_PR[:, :1]), slice(p, p + 1)))
            for r in range(2)
            if counted_PR[p, r]
        ]
        least.append(min(alone))
    assert float(loss(target_PR, counted_PR)) == pytest.approx(sum(least) / len(least), rel=1e-12)


def action_loss_by_hand(logit: Tensor, multi_hot: Tensor, counted: Tensor, weight_A: list[float]) -> float:
    total = 0.0
    for action, weight in enumerate(weight_A):
        costs = []
        for b in range(logit.size(0)):
            for x in range(logit.size(1)):
                if bool(counted[b, x]):
                    chance = 1 / (1 + math.exp(-float(logit[b, x, action])))
                    costs.append(-math.log(chance if int(multi_hot[b, x, action]) else 1 - chance))
        total += weight * sum(costs) / len(costs)
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weight_A", [[1.0, 1.0, 1.0], [0.5, 0.0, 2.0]])
def test_action_loss_equals_a_loop_over_counted_positions(seed: int, weight_A: list[float]) -> None:
    draw = torch.Generator().manual_seed(seed)
    logit = 3 * torch.randn(4, 5, 3, generator=draw, dtype=torch.float64)
    multi_hot = torch.randint(2, (4, 5, 3), generator=draw)
    counted = torch.rand(4, 5, generator=draw) < 0.5
    weights = torch.tensor(weight_A, dtype=torch.float64)
    found = float(action_loss(logit, multi_hot, counted, counted.sum(), weights))
    assert found == pytest.approx(action_loss_by_hand(logit, multi_hot, counted, weight_A), rel=1e-12)


def test_positions_that_do_not_count_get_no_gradient() -> None:
    logit = torch.randn(2, 3, 2, requires_grad=True)
    counted = torch.tensor([[True, False, True], [False, False, True]])
    hot = torch.ones(2, 3, 2, dtype=torch.long)
    action_loss(logit, hot, counted, counted.sum(), torch.ones(2)).backward()
    assert logit.grad is not None
    assert (logit.grad != 0).any(dim=-1).tolist() == counted.tolist()


def test_action_loss_is_zero_and_differentiable_when_nothing_counts() -> None:
    logit = torch.randn(2, 3, 2, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss = action_loss(logit, torch.ones(2, 3, 2, dtype=torch.long), nothing, nothing.sum(), torch.ones(2))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logit.grad is not None
    assert not logit.grad.any()
