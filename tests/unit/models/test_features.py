"""Action, time and gap features against arithmetic by hand."""

import math

import pytest
import torch

from unipinrec.models.common.features import AbsoluteTime, EventGap, multi_hot_actions

DAY = 24 * 60 * 60
MONTH = 30 * DAY
PERIODS = (DAY, 7 * DAY, 91 * DAY, 365 * DAY)


def test_an_action_bitmask_becomes_one_class_per_bit_and_no_mask() -> None:
    actions = torch.tensor([[0, 1, 2], [4, 5, 7]])
    hot = multi_hot_actions(actions, torch.zeros(2, 3, dtype=torch.bool), 3)
    assert hot.tolist() == [
        [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]],
        [[0, 0, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]],
    ]


def test_a_masked_position_has_the_mask_class_alone() -> None:
    hot = multi_hot_actions(torch.tensor([7, 7, 0, 0]), torch.tensor([True, False, True, False]), 3)
    assert hot.tolist() == [[0, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_all_32_action_bits_are_told_apart() -> None:
    actions = torch.tensor([2**bit for bit in range(32)] + [2**32 - 1])
    hot = multi_hot_actions(actions, torch.zeros(33, dtype=torch.bool), 32)
    assert torch.equal(hot[:32, :32], torch.eye(32, dtype=torch.long))
    assert hot[32].tolist() == [1] * 32 + [0]


@pytest.mark.parametrize("timestamp", [0, 1, 86_399, 1_700_000_000, 1_750_012_345, 253_402_300_799])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_absolute_time_is_sine_and_cosine_of_day_week_season_and_year(
    timestamp: int, dtype: torch.dtype, tolerance: float
) -> None:
    found = AbsoluteTime(PERIODS)(torch.tensor([timestamp]), dtype)
    turns = [timestamp % (days * DAY) / (days * DAY) for days in (1, 7, 91, 365)]
    expected = [math.sin(2 * math.pi * turn) for turn in turns]
    expected += [math.cos(2 * math.pi * turn) for turn in turns]
    assert found.dtype == dtype
    assert found.shape == (1, AbsoluteTime(PERIODS).size)
    assert found[0].tolist() == pytest.approx(expected, abs=tolerance)


def test_seconds_apart_are_told_apart_in_float32_at_todays_timestamps() -> None:
    now = 1_750_000_000
    encoded = AbsoluteTime(PERIODS)(torch.tensor([now, now + 1]), torch.float32)
    step = 2 * math.pi / DAY
    moved = math.dist(encoded[0, [0, 4]].tolist(), encoded[1, [0, 4]].tolist())
    assert moved == pytest.approx(step, rel=0.02)


def test_a_whole_period_later_its_features_are_the_same() -> None:
    encoded = AbsoluteTime(PERIODS)(torch.tensor([1_700_000_000, 1_700_000_000 + 7 * DAY]), torch.float32)
    day_and_week = [0, 1, 4, 5]
    assert torch.equal(encoded[0, day_and_week], encoded[1, day_and_week])
    season_and_year = [2, 3, 6, 7]
    assert (encoded[0, season_and_year] - encoded[1, season_and_year]).abs().min() > 1e-3


@pytest.mark.parametrize("gap", [0, 1, 59, 3_600, DAY, MONTH - 1, MONTH])
def test_a_gap_is_sines_of_its_logarithm_with_learnt_phases(gap: int) -> None:
    module = EventGap().double()
    phases = [0.1 * place for place in range(8)]
    with torch.no_grad():
        module.phase.copy_(torch.tensor(phases))
    found = module(torch.tensor([gap]), torch.tensor([True]))
    share = math.log(1 + gap) / math.log(1 + MONTH)
    expected = [math.sin(math.pi * (place + 1) * share + phases[place]) for place in range(8)]
    assert found.shape == (1, EventGap.size)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_gaps_are_cut_at_a_month_and_at_zero() -> None:
    module = EventGap()
    with torch.no_grad():
        module.phase.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    gap = torch.tensor([MONTH, MONTH + 1, 400 * DAY, 0, -1, -MONTH])
    encoded = module(gap, torch.ones(6, dtype=torch.bool))
    assert torch.equal(encoded[1:3], encoded[:1].expand(2, -1))
    assert torch.equal(encoded[4:], encoded[3:4].expand(2, -1))
    assert not torch.equal(encoded[0], encoded[3])


def test_a_position_without_an_event_before_it_has_zeros() -> None:
    module = EventGap()
    with torch.no_grad():
        module.phase.fill_(0.5)
    encoded = module(torch.tensor([[60, 60], [0, 60]]), torch.tensor([[False, True], [False, True]]))
    assert not encoded[:, 0].any()
    assert encoded[:, 1].all()
