"""Replayed traffic: the same for the same seed, in the shares that were asked for."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from loadtest.histories import DrawnUsers, HistoriesError, UserHistory, read_histories, write_histories
from loadtest.plan import LoadPlan
from loadtest.traffic import (
    MOST_APPENDED,
    HistoryLimit,
    Kind,
    StoredTraffic,
    Traffic,
    TrafficMix,
    Visit,
)

RETURNING = TrafficMix(new=0, anonymous=0, returning=1)


def user(number: int, length: int) -> UserHistory:
    place = np.arange(length)
    return UserHistory(f"user-{number}", 1000 * number + place, 1 + place % 3, 50 + 10 * place, place % 2)


USERS = [user(number, 20 + number) for number in range(60)]


def visits(count: int, mix: TrafficMix, **more: object) -> list[Visit]:
    traffic = Traffic(USERS, mix, **({"seed": 1} | more))
    return [traffic.next() for _ in range(count)]


def seen(some: list[Visit]) -> list[tuple[str, str, list[int] | None]]:
    return [
        (one.kind, one.user_id, None if one.history is None else one.history.timestamp_N.tolist())
        for one in some
    ]


def events(visit: Visit) -> list[tuple[int, ...]]:
    assert visit.history is not None
    history = visit.history
    columns = (history.item_id_N, history.actions_N, history.timestamp_N, history.surface_N)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_the_same_seed_gives_the_same_visits_and_another_seed_others() -> None:
    assert seen(visits(300, TrafficMix())) == seen(visits(300, TrafficMix()))
    assert seen(visits(300, TrafficMix())) != seen(visits(300, TrafficMix(), seed=2))


def test_the_mix_has_the_shares_that_were_asked_for() -> None:
    kinds = [one.kind for one in visits(10_000, TrafficMix(new=0.15, anonymous=0.25, returning=0.6))]
    shares = [kinds.count(kind) / len(kinds) for kind in Kind]
    assert shares == pytest.approx([0.15, 0.25, 0.6], abs=0.015)


def test_new_and_anonymous_callers_never_come_again_and_only_new_ones_send_no_history() -> None:
    strangers = [one for one in visits(2_000, TrafficMix()) if one.kind is not Kind.RETURNING]
    assert len({one.user_id for one in strangers}) == len(strangers)
    assert all((one.history is None) == (one.kind is Kind.NEW) for one in strangers)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_users_return_by_zipfs_law(exponent: float) -> None:
    ids = [one.user_id for one in visits(30_000, TrafficMix(new=0, anonymous=0, returning=1, zipf=exponent))]
    counts = np.sort(np.unique(ids, return_counts=True)[1])[::-1]
    expected = np.arange(1, len(USERS) + 1) ** -exponent
    assert counts[:5] / len(ids) == pytest.approx((expected / expected.sum())[:5], rel=0.15)


def test_each_return_sends_the_last_history_and_up_to_eight_events_more() -> None:
    last: dict[str, list[tuple[int, ...]]] = {}
    appended = set()
    for visit in visits(3_000, RETURNING):
        now = events(visit)
        if visit.user_id in last:
            before = last[visit.user_id]
            # What was dropped at the front is a whole number of blocks of 256.
            dropped = now[0] != before[0]
            if not dropped:
                assert now[: len(before)] == before
                appended.add(len(now) - len(before))
        last[visit.user_id] = now
        times = [event[2] for event in now]
        assert times == sorted(times)
    assert appended == set(range(1, MOST_APPENDED + 1))


def test_a_limited_history_starts_at_a_multiple_of_the_block_and_is_never_short_of_the_window() -> None:
    limit = HistoryLimit(keep=48, drop=16)
    first: dict[str, int] = {}
    starts: set[int] = set()
    for visit in visits(3_000, RETURNING, limit=limit):
        assert visit.history is not None
        length, start_s = len(visit.history), int(visit.history.timestamp_N[0])
        assert length <= 48
        first.setdefault(visit.user_id, start_s)
        if start_s != first[visit.user_id]:
            starts.add(start_s - first[visit.user_id])
            assert length > 48 - 16
    assert starts
    assert [limit.start(length) for length in (48, 49, 64, 65, 80)] == [0, 16, 16, 32, 32]


def test_streams_share_the_users_among_them() -> None:
    of_stream = [
        {one.user_id for one in visits(2_000, RETURNING, stream=stream, streams=3)} for stream in range(3)
    ]
    assert not of_stream[0] & of_stream[1]
    assert set().union(*of_stream) <= {one.user_id for one in USERS}
    with pytest.raises(ValueError, match="60 users; allowed: at least one for each of 61"):
        visits(1, RETURNING, streams=61)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"new": 0.5}, r"shares add up to 1.4; allowed: 1"),
        ({"new": -0.1, "returning": 0.9}, r"share of new is -0.1; allowed: 0 to 1"),
        ({"zipf": -1.0}, r"zipf is -1.0; allowed: 0 to 10"),
    ],
)
def test_an_impossible_mix_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrafficMix(**fields)


def test_a_traffic_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "traffic.jsonl"
    assert write_histories(path, [*USERS, user(99, 0)]) == len(USERS)
    again = read_histories(path)
    assert [one.as_fields() for one in again] == [one.as_fields() for one in USERS]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "a", "item_ids": [1], "actions": [1]}', "line 1: timestamps is missing"),
        ('{"user_id": "a", "item_ids": [1], "actions": [1, 2], "timestamps": [1]}', "lists of one length"),
        (
            '{"user_id": "a", "item_ids": [1, 2], "actions": [1, 2], "timestamps": [2, 1]}',
            "timestamps is 1 at event 1; allowed: ascending, at least 2",
        ),
        (
            '{"user_id": "a", "item_ids": ["x"], "actions": [1], "timestamps": [1]}',
            r'item_ids is "x" at event 0; allowed: integers',
        ),
        (
            '{"user_id": "a", "item_ids": [1, 2.0], "actions": [1, 1], "timestamps": [1, 1]}',
            "is 2.0 at event 1",
        ),
        (
            '{"user_id": "a", "item_ids": [true], "actions": [1], "timestamps": [1]}',
            "item_ids is true at event 0",
        ),
        (
            '{"user_id": "a", "item_ids": [9223372036854775808], "actions": [1], "timestamps": [1]}',
            "of 64 bits",
        ),
        (
            '{"user_id": "a", "item_ids": 1, "actions": [1], "timestamps": [1]}',
            "is 1; allowed: a list of integers",
        ),
        (
            '{"user_id": null, "item_ids": [1], "actions": [1], "timestamps": [1]}',
            "user_id is null; allowed: a text",
        ),
        ("[]", r"line 1: line is \[\]; allowed: an object"),
        ("nonsense", "line 1: line is no JSON"),
        ("", "has no user with events"),
    ],
)
def test_a_wrong_traffic_file_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "traffic.jsonl"
    path.write_text(line)
    with pytest.raises(HistoriesError, match=message):
        read_histories(path)


def test_load_generators_need_the_client_alone() -> None:
    modules = "generator, locust_run, plots, report, sender, soak, windows"
    code = (
        f"import sys; from loadtest import {modules}; "
        "print([name for name in ('torch', 'unipinrec', 'ensemble', 'benchmarks') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_visits_are_endless() -> None:
    traffic = Traffic(USERS[:1], RETURNING, seed=0)
    longest = max(len(events(visit)) for visit in islice(iter(traffic.next, None), 2_000))
    assert 768 <= longest <= 1024


@pytest.fixture
def drawn(tmp_path: Path) -> DrawnUsers:
    np.save(tmp_path / "items.npy", np.arange(1_000, 6_000))
    return DrawnUsers(
        users=1_000_000,
        least_events=898,
        most_events=1_024,
        items=str(tmp_path / "items.npy"),
        actions=4,
        surfaces=2,
        seed=3,
    )


def test_users_are_drawn_alike_whenever_they_are_asked_for(drawn: DrawnUsers) -> None:
    first, again, other = drawn[7], drawn[7], drawn[8]
    assert first.as_fields() == again.as_fields()
    assert first.as_fields() != other.as_fields()
    for number in range(40):
        user = drawn[number]
        assert 898 <= len(user) <= 1_024
        assert (np.diff(user.timestamp_N) > 0).all()
        columns = ((user.item_id_N, 1_000, 5_999), (user.actions_N, 1, 15), (user.surface_N, 0, 1))
        for values, low, high in columns:
            assert low <= values.min()
            assert values.max() <= high


def test_anonymous_callers_send_as_many_events_as_are_asked_for_and_never_the_same(
    drawn: DrawnUsers,
) -> None:
    """Of users with just as many events, each of whom is drawn several times."""
    mix = TrafficMix(new=0, anonymous=1, returning=0, anonymous_events=512)
    few = [drawn[number] for number in range(3)]
    sent = [events(visit) for visit in islice(iter(Traffic(few, mix, seed=1).next, None), 30)]
    assert {len(history) for history in sent} == {512}
    assert len({tuple(history) for history in sent}) == 30
    short = Traffic(USERS, mix, seed=1)
    assert all(20 <= len(events(short.next())) <= 79 for _ in range(30))


def test_a_user_whose_visit_is_under_way_does_not_come_again() -> None:
    mix = TrafficMix(new=0, anonymous=0, returning=1, overlapping=False)
    traffic = Traffic(USERS, mix, seed=1)
    under_way = [traffic.next() for _ in USERS]
    assert len({visit.user_id for visit in under_way}) == len(USERS)
    # Every user has a visit under way, so that the next one is that of the only one who is done.
    traffic.done(under_way[17])
    assert traffic.next().user_id == under_way[17].user_id


def test_the_first_pass_brings_the_most_popular_users_last_and_then_they_return(drawn: DrawnUsers) -> None:
    mix = TrafficMix(new=0, anonymous=0, returning=1, zipf=1.5, overlapping=False)
    traffic = Traffic(drawn, mix, seed=1, limit=HistoryLimit(keep=100_000))
    first = list(traffic.first_pass(5))
    assert [visit.rank for visit in first] == [4, 3, 2, 1, 0]
    assert all(449 <= len(events(visit)) <= 512 for visit in first)
    known = {visit.user_id: events(visit) for visit in first}
    returned = 0
    for visit in islice(iter(traffic.next, None), 60):
        traffic.done(visit)
        if before := known.get(visit.user_id):
            returned += 1
            now = events(visit)
            assert now[: len(before)] == before
            assert 1 <= len(now) - len(before) <= MOST_APPENDED
            known[visit.user_id] = now
    assert returned > 30


def test_dropping_old_blocks_never_changes_what_the_model_reads(drawn: DrawnUsers) -> None:
    """Against a user who sends everything: lengths that are sent stay bounded, windows are equal."""
    most, block = 512, 64
    limits = (HistoryLimit(keep=most + block, drop=block), HistoryLimit(keep=100_000, drop=block))
    short, whole = (Traffic([drawn[0]], RETURNING, seed=8, limit=limit) for limit in limits)
    starts = set()
    for _ in range(200):
        sent, everything = events(short.next()), events(whole.next())
        assert len(sent) <= most + block
        start = -(-max(len(everything) - most, 0) // block) * block
        window = everything[start:]
        assert sent[len(sent) - len(window) :] == window
        starts.add(start)
    assert sorted(starts) == list(range(0, max(starts) + 1, block))
    assert len(starts) > 8


def test_stored_users_come_in_turns_and_send_no_history(tmp_path: Path) -> None:
    plan = LoadPlan(url="", stored=("a", "b", "c", "d", "e"), workers=2)
    plan.write(tmp_path / "plan.json")
    read = LoadPlan.read(tmp_path / "plan.json")
    assert read == plan
    first, second = read.open_traffic(0), read.open_traffic(1)
    came = [first.next() for _ in range(5)]
    assert [visit.user_id for visit in came] == ["a", "c", "e", "a", "c"]
    assert [visit.user_id for visit in second.first_pass(3)] == ["b", "d", "b"]
    assert all(visit.history is None for visit in came)


def test_stored_users_go_on_behind_visits_that_others_sent() -> None:
    traffic = StoredTraffic(["a", "b", "c"])
    traffic.next()
    traffic.skip(4)
    assert traffic.user_ids == ("c", "a", "b")
    assert traffic.next().user_id == "c"
