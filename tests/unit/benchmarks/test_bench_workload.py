"""Traffic: who comes again does so with more events, in a window that moves by blocks, and reproducibly."""

import threading
from itertools import islice

import numpy as np
import pytest

from benchmarks.workload import (
    MOST_APPENDED,
    ColdTraffic,
    EventSpace,
    ReturningTraffic,
    Traffic,
    Visit,
    WarmTraffic,
    ZipfTraffic,
)
from unipinrec.data.history import History
from unipinrec.data.window import window_start

SPACE = EventSpace(items=5_000, actions=4, surfaces=2, max_history=512, window_block=64)
FIELDS = ("item_row_N", "actions_N", "timestamp_N", "surface_N")


def events(history: History) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(history, name).tolist() for name in FIELDS), strict=True))


def visits(traffic: Traffic, count: int) -> list[Visit]:
    """One after another, each given back before the next is taken."""
    taken = []
    for _ in range(count):
        taken.append(traffic.take())
        traffic.give_back(taken[-1])
    return taken


def window(history: History) -> list[tuple[int, ...]]:
    """What the model reads of it."""
    return events(history[window_start(len(history), SPACE.max_history, SPACE.window_block) :])


def test_every_cold_visit_is_a_new_user_with_a_full_window() -> None:
    taken = visits(ColdTraffic(SPACE, seed=3), 20)
    assert len({visit.user_id for visit in taken}) == 20
    assert {len(visit.history) for visit in taken} == {512}
    assert len({tuple(events(visit.history)) for visit in taken}) == 20


@pytest.mark.parametrize("make", [lambda: WarmTraffic(SPACE, 3, 4), lambda: ZipfTraffic(SPACE, 3, 40, 4)])
def test_each_visit_of_a_user_appends_1_to_8_events_to_the_former_history(
    make: "type[ReturningTraffic]",
) -> None:
    traffic = make()
    whole = {visit.user: events(visit.history) for visit in traffic.first_pass()}
    assert all(449 <= len(history) <= 512 for history in whole.values())
    appended = []
    for visit in visits(traffic, 400):
        if visit.user not in whole:
            whole[visit.user] = events(visit.history)
            continue
        known, sent = whole[visit.user], events(visit.history)
        # What is sent begins at an event that was known, and goes on like the known ones.
        begin = known.index(sent[0])
        assert begin % SPACE.window_block == 0
        assert sent[: len(known) - begin] == known[begin:]
        new = sent[len(known) - begin :]
        appended.append(len(new))
        whole[visit.user] = known + new
    assert set(appended) == set(range(1, MOST_APPENDED + 1))
    assert np.mean(appended) == pytest.approx(4.5, abs=0.5)


def test_dropping_old_blocks_never_changes_what_the_model_reads() -> None:
    """Against a user who sends everything: lengths that are sent stay bounded, windows are equal."""
    traffic = WarmTraffic(SPACE, 8, 1)
    (first,) = traffic.first_pass()
    whole, starts = events(first.history), set()
    for visit in visits(traffic, 150):
        sent = events(visit.history)
        whole += sent[sent.index(whole[-1]) + 1 :]
        start = window_start(len(whole), SPACE.max_history, SPACE.window_block)
        assert window(visit.history) == whole[start:]
        assert len(sent) <= SPACE.max_history + SPACE.window_block
        starts.add(start)
    assert len(whole) > 1_000
    assert sorted(starts) == list(range(0, max(starts) + 1, SPACE.window_block))


def test_timestamps_ascend_and_the_request_comes_last() -> None:
    for visit in visits(WarmTraffic(SPACE, 5, 3), 60):
        assert (np.diff(visit.history.timestamp_N) > 0).all()
        assert visit.request_time > visit.history.timestamp_N[-1]


def test_events_are_what_the_contract_allows() -> None:
    for visit in visits(ColdTraffic(SPACE, 1), 5):
        history = visit.history
        for name, low, high in (("item_row_N", 0, 4_999), ("actions_N", 1, 15), ("surface_N", 0, 1)):
            values = getattr(history, name)
            assert values.min() >= low
            assert values.max() <= high


def test_users_of_equal_seeds_do_the_same_and_of_others_not() -> None:
    def histories(seed: int) -> list[list[tuple[int, ...]]]:
        return [events(visit.history) for visit in visits(WarmTraffic(SPACE, seed, 3), 12)]

    assert histories(4) == histories(4)
    assert not {tuple(one) for one in histories(4)} & {tuple(one) for one in histories(5)}


def test_a_user_does_the_same_whoever_else_comes_in_between() -> None:
    alone, among = WarmTraffic(SPACE, 6, 1), WarmTraffic(SPACE, 6, 5)
    of_user_0 = [visit for visit in visits(among, 15) if visit.user == 0]
    assert [events(v.history) for v in of_user_0] == [events(v.history) for v in visits(alone, 3)]


def test_a_user_with_a_visit_under_way_is_waited_for() -> None:
    traffic = WarmTraffic(SPACE, 2, 2)
    first, second = traffic.take(), traffic.take()
    assert first.user != second.user
    taken: list[Visit] = []
    waiting = threading.Thread(target=lambda: taken.append(traffic.take()))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    traffic.give_back(second)
    waiting.join(5)
    assert [visit.user for visit in taken] == [second.user]


def test_visits_follow_zipf_and_no_user_has_two_at_once() -> None:
    traffic = ZipfTraffic(
        EventSpace(items=9, actions=1, surfaces=1, max_history=4, window_block=2), 1, 100, 0
    )
    users = np.array([visit.user for visit in visits(traffic, 5_000)])
    share_U = np.bincount(users, minlength=100) / len(users)
    expected_U = 1 / np.arange(1, 101)
    expected_U /= expected_U.sum()
    assert np.abs(share_U - expected_U).max() < 0.02
    under_way = [traffic.take().user for _ in range(100)]
    assert sorted(under_way) == list(range(100))


def test_the_first_pass_of_zipf_brings_the_most_popular_users_last() -> None:
    traffic = ZipfTraffic(SPACE, 1, 1_000, 5)
    assert [visit.user for visit in traffic.first_pass()] == [4, 3, 2, 1, 0]


def test_ten_visits_of_many_users_cost_only_those_who_came() -> None:
    traffic = ZipfTraffic(SPACE, 1, 1_000_000, 100)
    assert len(list(islice((traffic.take() for _ in range(10)), 10))) == 10
    assert len(traffic._histories) <= 10
