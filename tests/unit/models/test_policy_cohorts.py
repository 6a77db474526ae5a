"""A user is in the first cohort whose rule the events before the request meet."""

import numpy as np

from tests.support.explored import ACTIONS, ARMS, DAY
from unipinrec.data.history import History
from unipinrec.models.policy.cohorts import cohort_of
from unipinrec.models.policy.config import CohortRule, PolicyConfig

NOW = 1_700_000_000
RULES = (
    CohortRule(name="core", action="save", days=3, window_days=10),
    CohortRule(name="casual", days=2, window_days=5),
)
CONFIG = PolicyConfig(num_items=1, num_actions=3, arms=ARMS, cohorts=RULES, max_history=40)
CLICK, SAVE = (1 << ACTIONS.index(name) for name in ("click", "save"))


def cohort(*events: tuple[int, int]) -> str:
    """The cohort of a user with events of these ages in seconds and actions."""
    ages, actions = np.array(events, np.int64).reshape(-1, 2).T
    zeros = np.zeros_like(ages)
    history = History(item_row_N=zeros, actions_N=actions, timestamp_N=NOW - ages, surface_N=zeros)
    return CONFIG.cohort_names[cohort_of(history, NOW, CONFIG)]


def test_the_first_rule_that_holds_counts() -> None:
    assert cohort((2 * DAY, SAVE), (DAY, SAVE), (1, SAVE)) == "core"
    assert cohort((2 * DAY, SAVE), (DAY, CLICK), (1, SAVE)) == "casual"
    assert cohort((2 * DAY, CLICK)) == "rest"
    assert cohort() == "rest"


def test_days_are_steps_of_24_hours_back_from_the_request() -> None:
    assert cohort((DAY - 1, CLICK), (1, CLICK)) == "rest"
    assert cohort((DAY, CLICK), (DAY - 1, CLICK)) == "casual"
    assert cohort((5 * DAY - 1, CLICK), (1, CLICK)) == "casual"
    assert cohort((5 * DAY, CLICK), (1, CLICK)) == "rest"
    assert cohort((DAY, CLICK), (0, CLICK)) == "rest"


def test_cohorts_are_those_of_a_count_of_days_one_by_one() -> None:
    draw = np.random.default_rng(0)
    found = set()
    for _ in range(200):
        length = int(draw.integers(12))
        ages = sorted(draw.integers(1, 14 * DAY, size=length).tolist(), reverse=True)
        events = [(age, int(draw.integers(4))) for age in ages]
        saved = {age // DAY for age, actions in events if actions & SAVE and age < 10 * DAY}
        active = {age // DAY for age, _ in events if age < 5 * DAY}
        expected = "core" if len(saved) >= 3 else "casual" if len(active) >= 2 else "rest"
        assert cohort(*events) == expected
        found.add(expected)
    assert found == set(CONFIG.cohort_names)
