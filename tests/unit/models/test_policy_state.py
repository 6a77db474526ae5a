"""The state of a request is the same in training and in serving, and holds only events before it."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.explored import DAY, explored_dataset, explored_log, small_config
from unipinrec.data.history import History
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.log_states import LogStates
from unipinrec.models.policy.state import inputs_of, policy_state, stack_states

NOW = 1_700_000_000
PADDED = ("item_row", "event_actions", "event_surface", "event_time", "is_event")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InteractionDataset:
    return explored_dataset(tmp_path_factory.mktemp("states") / "data")


@pytest.fixture(scope="module")
def config(dataset: InteractionDataset) -> PolicyConfig:
    return small_config(dataset)


def history(*events: tuple[int, int]) -> History:
    """Seconds before now and actions of each event; items and surfaces are their place."""
    ages, actions = zip(*events, strict=True)
    return History(
        item_row_N=np.arange(len(events)),
        actions_N=np.array(actions),
        timestamp_N=NOW - np.array(ages),
        surface_N=np.arange(len(events)) % 2,
    )


EMPTY = history((1, 1))[:0]


def test_the_numbers_of_a_state_worked_out_by_hand(config: PolicyConfig) -> None:
    events = history((30 * DAY, 1), (8 * DAY, 3), (3 * DAY + 5, 4), (3 * DAY, 1), (10, 3))
    inputs = stack_states([policy_state(events, NOW, 1, config)], config)

    def count(number: int) -> float:
        return math.log(1 + number) / math.log(1 + 12)

    def seconds(number: int) -> float:
        return math.log(1 + number) / math.log(1 + 365 * DAY)

    user = [
        # In an hour, a day and a week.
        *(count(5), count(1), count(1), count(3)),
        # Days back 8, 3 (twice) and 0.
        3 / 28,
        *(seconds(10), seconds(30 * DAY)),
        *(count(4), count(2), count(1)),
        *(4 / 5, 2 / 5, 1 / 5),
        *(3 / 28, 2 / 28, 1 / 28),
    ]
    np.testing.assert_allclose(inputs["user"], [user], rtol=1e-6)
    gaps = [0, 22 * DAY, 5 * DAY - 5, 5, 3 * DAY - 10]
    ages = [30 * DAY, 8 * DAY, 3 * DAY + 5, 3 * DAY, 10]
    times = [[seconds(age), seconds(gap)] for age, gap in zip(ages, gaps, strict=True)][::-1]
    np.testing.assert_allclose(inputs["event_time"], [times], rtol=1e-6)
    hot = [[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(inputs["event_actions"], [hot])
    np.testing.assert_array_equal(inputs["item_row"], [[4, 3, 2, 1, 0]])
    np.testing.assert_array_equal(inputs["event_surface"], [[0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(inputs["surface"], [1])
    # 2023-11-14, a Tuesday, 22:13:20; the epoch began on a Thursday.
    day, week = (22 * 3600 + 13 * 60 + 20) / DAY, (5 + (22 * 3600 + 13 * 60 + 20) / DAY) / 7
    turns = [2 * math.pi * day, 2 * math.pi * week]
    expected = [math.sin(turns[0]), math.sin(turns[1]), math.cos(turns[0]), math.cos(turns[1])]
    np.testing.assert_allclose(inputs["context"], [expected], atol=1e-6)


def test_an_empty_history_is_one_column_of_padding(config: PolicyConfig) -> None:
    inputs = stack_states([policy_state(EMPTY, NOW, 0, config)], config)
    assert inputs["item_row"].tolist() == [[-1]]
    assert inputs["is_event"].tolist() == [[False]]
    assert not inputs["event_actions"].any()
    assert not inputs["event_time"].any()
    # Long since the last event; everything else is none.
    assert inputs["user"].tolist() == [[0, 0, 0, 0, 0, 1] + [0] * 10]


def test_only_the_latest_events_before_the_request_count(config: PolicyConfig) -> None:
    events = history(*((100 - place, 1) for place in range(100)), (0, 2), (-5, 4))
    state = policy_state(events, NOW, 0, config)
    assert state.events.item_row_N.tolist() == list(range(88, 100))
    assert state.events.timestamp_N.max() < NOW


def test_training_and_serving_have_the_same_numbers(
    dataset: InteractionDataset, config: PolicyConfig
) -> None:
    log, _ = explored_log(dataset, 400)
    log.user_id_R[7] = "nobody"
    histories = [
        EMPTY if r == 7 else dataset.history(list(dataset.user_ids_U).index(log.user_id_R[r]))
        for r in range(400)
    ]
    states = [
        policy_state(one, int(time), int(surface), config)
        for one, time, surface in zip(histories, log.timestamp_R, log.surface_R, strict=True)
    ]
    lengths = {len(state.events) for state in states}
    assert {0, 1, config.max_history} <= lengths
    joined = LogStates(dataset, log, config)
    for rows in (np.arange(400), np.array([7]), np.random.default_rng(0).permutation(400)[:33]):
        trained = inputs_of(joined.windows(rows), config)
        served = stack_states([states[row] for row in rows], config)
        assert list(trained) == list(served)
        for name, array in served.items():
            assert trained[name].dtype == array.dtype
            np.testing.assert_array_equal(trained[name], array, err_msg=name)


def test_company_in_a_batch_changes_no_number_of_a_state(config: PolicyConfig) -> None:
    short = policy_state(history((3 * DAY, 1), (7, 2)), NOW, 1, config)
    long = policy_state(history(*((50 - place, 4) for place in range(12))), NOW, 0, config)
    alone, together = stack_states([short], config), stack_states([long, short], config)
    for name, array in alone.items():
        found = together[name][1:, :2] if name in PADDED else together[name][1:]
        np.testing.assert_array_equal(found, array, err_msg=name)


def test_states_and_cohorts_need_no_pytorch() -> None:
    modules = "unipinrec.models.policy.state, unipinrec.models.policy.cohorts, unipinrec.models.policy.card"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
