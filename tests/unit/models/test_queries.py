"""Budgets and merging against exact arithmetic and against plain loops."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipinrec.models.unified.queries import merge_similar, plan_queries, split_budget

weights = st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any)


@given(st.integers(0, 500), weights)
def test_a_split_is_proportional_to_within_one_item_and_adds_up(total: int, weight: list[int]) -> None:
    share = split_budget(total, np.array(weight, np.float64)).tolist()
    assert sum(share) == total
    for found, one in zip(share, weight, strict=True):
        exact = Fraction(total * one, sum(weight))
        assert abs(found - exact) < 1
        assert found == 0 or one > 0


@given(st.integers(0, 500), weights)
def test_what_is_left_over_goes_to_the_largest_remainders(total: int, weight: list[int]) -> None:
    exact = [Fraction(total * one, sum(weight)) for one in weight]
    up = [found > one for found, one in zip(split_budget(total, np.array(weight, float)), exact, strict=True)]
    remainder = [one - one.__floor__() for one in exact]
    rounded_up = [one for one, went_up in zip(remainder, up, strict=True) if went_up]
    rounded_down = [one for one, went_up in zip(remainder, up, strict=True) if not went_up]
    if rounded_up and rounded_down:
        # Doubles may order two remainders that are equal for them either way.
        assert min(rounded_up) >= max(rounded_down) - Fraction(1, 10**9)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_weights_does_not_matter(scale: float) -> None:
    assert split_budget(7, scale * np.array([2.0, 1.0, 1.0])).tolist() == [3, 2, 2]


def test_a_plan_by_hand() -> None:
    plan = plan_queries(10, [3.0, 0.0, 1.0], steps=2, num_offsets=2)
    # 10 items: 7.5 and 2.5, so 8 and 2 (equal remainders: the earlier); 8 over four places, 2 over the first.
    assert plan.step_Q.tolist() == [0, 0, 0, 0, 1, 1]
    assert plan.outcome_Q.tolist() == [0, 0, 2, 2, 0, 0]
    assert plan.offset_Q.tolist() == [0, 1, 0, 1, 0, 1]
    assert plan.budget_Q.tolist() == [2, 2, 1, 1, 2, 2]
    assert (plan.steps, plan.leading_outcome) == (2, 0)
    assert plan.origins(num_actions=3, num_offsets=2).tolist() == [0, 1, 4, 5, 8, 9]


def test_without_weights_no_outcome_in_particular_is_asked_for() -> None:
    plan = plan_queries(5, [0.0, 0.0], steps=1, num_offsets=1)
    assert (plan.outcome_Q.tolist(), plan.budget_Q.tolist(), plan.leading_outcome) == ([2], [5], 2)


@given(st.integers(1, 200), weights, st.integers(1, 4), st.integers(1, 3))
def test_a_plan_spends_the_budget_by_outcome_and_has_no_empty_query(
    total: int, weight: list[int], steps: int, num_offsets: int
) -> None:
    plan = plan_queries(total, weight, steps, num_offsets)
    assert plan.budget_Q.min() > 0
    by_outcome = np.bincount(plan.outcome_Q, plan.budget_Q, minlength=len(weight))
    assert by_outcome.tolist() == split_budget(total, np.array(weight, float)).tolist()
    order = list(zip(plan.step_Q, plan.outcome_Q, plan.offset_Q, strict=True))
    assert order == sorted(set(order))
    origins = plan.origins(len(weight), num_offsets).tolist()
    decoded = [
        (
            code // num_offsets // (len(weight) + 1),
            code // num_offsets % (len(weight) + 1),
            code % num_offsets,
        )
        for code in origins
    ]
    assert decoded == order


def merged_by_hand(query: list[list[float]], budget: list[int], threshold: float) -> dict[int, int]:
    kept: dict[int, int] = {}
    for place, vector in enumerate(query):
        cosine = {k: sum(a * b for a, b in zip(vector, query[k], strict=True)) for k in kept}
        near = [k for k in kept if cosine[k] > threshold]
        if near:
            kept[max(near, key=lambda k: (cosine[k], -k))] += budget[place]
        else:
            kept[place] = budget[place]
    return kept


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.3, 0.7, 0.9]))
def test_merging_equals_a_loop_in_generation_order(seed: int, count: int, threshold: float) -> None:
    draw = np.random.default_rng(seed)
    query_QE = draw.normal(size=(count, 3))
    query_QE = (query_QE / np.linalg.norm(query_QE, axis=1, keepdims=True)).astype(np.float32)
    budget_Q = draw.integers(1, 9, size=count)
    kept_Q, merged_Q = merge_similar(query_QE, budget_Q, threshold)
    expected = merged_by_hand(query_QE.astype(float).tolist(), budget_Q.tolist(), threshold)
    assert dict(zip(kept_Q.tolist(), merged_Q.tolist(), strict=True)) == expected
    assert merged_Q.sum() == budget_Q.sum()


def test_a_threshold_of_one_keeps_equal_embeddings() -> None:
    kept_Q, budget_Q = merge_similar(np.ones((3, 1), np.float32), np.array([1, 2, 3]), 1.0)
    assert (kept_Q.tolist(), budget_Q.tolist()) == ([0, 1, 2], [1, 2, 3])
