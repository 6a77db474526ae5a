"""Retrieval targets against loops over events, worked out from their definition."""

import numpy as np
import pytest
import torch

from unipinrec.data.blended import BlendedBatch, BlendedExample, collate
from unipinrec.models.common.targets import Targets, make_targets
from unipinrec.models.config import RetrievalTraining

POSITIVE = 0b011


def batch(seed: int, users: int = 4) -> BlendedBatch:
    draw = np.random.default_rng(seed)
    examples = []
    for user in range(users):
        length = int(draw.integers(0, 9))
        times = 1_000 + draw.integers(0, 50, size=length + 1).cumsum()
        has_next = draw.random() < 0.7
        examples.append(
            BlendedExample(
                user=user + 10,
                event_item_N=draw.integers(30, size=length),
                event_actions_N=draw.integers(1, 8, size=length),
                event_surface_N=draw.integers(3, size=length),
                event_timestamp_N=times[:length],
                event_shown_N=times[:length],
                feedview_timestamp_F=times[-1:],
                feedview_surface_F=np.array([2]),
                feedview_length_F=np.array([length]),
                next_item=int(draw.integers(30)) if has_next else -1,
                next_actions=int(draw.integers(1, 8)) if has_next else 0,
                candidate_item_K=np.array([1]),
                candidate_actions_K=np.array([0]),
                candidate_feedview_K=np.array([0]),
            )
        )
    return collate(examples)


def by_hand(one: BlendedBatch, offsets: tuple[int, ...], most: int, gap: int) -> set[tuple[object, ...]]:
    """Every target as (position, user, time, surface, offset, items, actions)."""
    found = set()
    for b in range(len(one.length_B)):
        last = int(one.length_B[b])
        item, actions, time = (
            tensor[b].tolist()
            for tensor in (one.target_item_BT, one.target_actions_BT, one.target_timestamp_BT)
        )
        good = [t for t in range(last + 1) if item[t] >= 0 and actions[t] & POSITIVE]
        for t in range(last + 1):
            for number, offset in enumerate(offsets):
                later = [g for g in good if g >= t and time[g] >= time[t] + offset]
                if not later or (offset == 0 and later[0] != t):
                    continue
                session = [later[0]]
                for g in good:
                    if g > session[-1] and len(session) < most and time[g] - time[session[-1]] <= gap:
                        session.append(g)
                    elif g > session[-1]:
                        break
                found.add(
                    (
                        b * one.target_item_BT.size(1) + t,
                        int(one.user_B[b]),
                        time[t],
                        int(one.target_surface_BT[b, t]),
                        number,
                        tuple(item[g] for g in session),
                        actions[session[0]],
                    )
                )
    return found


def rows(targets: Targets) -> set[tuple[object, ...]]:
    return {
        (
            int(targets.position_P[p]),
            int(targets.user_P[p]),
            int(targets.timestamp_P[p]),
            int(targets.surface_P[p]),
            int(targets.offset_P[p]),
            tuple(targets.item_PR[p][targets.counted_PR[p]].tolist()),
            int(targets.actions_P[p]),
        )
        for p in range(len(targets.position_P))
    }


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("offsets", [(0,), (0, 30), (0, 1, 25, 60)])
@pytest.mark.parametrize(("most", "gap"), [(1, 0), (3, 20), (4, 1_000)])
def test_targets_equal_a_loop_over_events(seed: int, offsets: tuple[int, ...], most: int, gap: int) -> None:
    one = batch(seed)
    config = RetrievalTraining(epochs=1, relaxation_targets=most, session_gap_s=gap)
    targets = make_targets(one, POSITIVE, offsets, config)
    expected = by_hand(one, offsets, most, gap)
    assert rows(targets) == expected
    assert len(targets.position_P) == len(expected)
    assert bool(targets.counted_PR[:, 0].all())
    assert targets.item_PR.dtype == torch.long
