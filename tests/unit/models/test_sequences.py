"""Sequences of requests: cut at limits, packed one after another, the same for one request and for many."""

from dataclasses import dataclass, replace

import numpy as np

from unipinrec.data.history import History
from unipinrec.data.sequences import PackedSequences, RequestSequences, sequences_of
from unipinrec.models.common.offline import OfflineRequest


@dataclass(frozen=True)
class Most:
    max_events: int = 4
    max_impressions: int = 3


def history(*rows: tuple[int, int, int]) -> History:
    """Of items, actions and times."""
    item_row_N, actions_N, timestamp_N = np.array(rows, np.int64).reshape(-1, 3).T
    return History(
        item_row_N=item_row_N, actions_N=actions_N, timestamp_N=timestamp_N, surface_N=item_row_N % 2
    )


def drawn(seed: int) -> OfflineRequest:
    random = np.random.default_rng(seed)
    count = seed % 9
    times = np.sort(random.integers(0, 40, count))
    rows = [(int(random.integers(50)), int(random.integers(3)), int(time)) for time in times]
    passed = [(int(random.integers(50)), 0, int(time)) for time in times]
    return OfflineRequest(
        history=history(*rows),
        request_time=30,
        surface=seed % 2,
        impressions=history(*passed) if seed % 3 else None,
    )


def columns(packed: PackedSequences, request: int) -> list[list[int]]:
    rows = slice(*packed.offset_R1[request : request + 2].tolist())
    return [
        getattr(packed, name)[rows].tolist()
        for name in ("item_row_N", "actions_N", "surface_N", "timestamp_N")
    ]


def test_many_requests_are_packed_as_each_alone() -> None:
    requests = [drawn(seed) for seed in range(20)]
    together = sequences_of(requests, Most())
    assert len(together) == 20
    for index, request in enumerate(requests):
        alone = sequences_of([request], Most())
        for part in ("events", "impressions"):
            assert columns(getattr(together, part), index) == columns(getattr(alone, part), 0)
        assert together.request_time_R[index] == alone.request_time_R[0] == 30
        assert together.request_surface_R[index] == index % 2


def test_the_latest_rows_are_kept() -> None:
    request = OfflineRequest(
        history=history(*((item, 1, item) for item in range(6))),
        impressions=history(*((item, 0, item) for item in range(10, 16))),
        request_time=99,
    )
    found = sequences_of([request], Most())
    assert found.events.item_row_N.tolist() == [2, 3, 4, 5]
    assert found.impressions.item_row_N.tolist() == [13, 14, 15]
    exact = sequences_of([replace(request, history=request.history[:4])], Most())
    assert exact.events.item_row_N.tolist() == [0, 1, 2, 3]


def test_rows_of_the_requests_second_count_and_later_ones_do_not() -> None:
    request = OfflineRequest(
        history=history((1, 1, 9), (2, 1, 10), (3, 1, 11)),
        impressions=history((4, 0, 10), (5, 0, 11)),
        request_time=10,
    )
    found = sequences_of([request], Most())
    assert found.events.item_row_N.tolist() == [1, 2]
    assert found.impressions.item_row_N.tolist() == [4]


def test_impressions_are_taken_out_of_a_history_that_holds_them() -> None:
    request = OfflineRequest(history=history((1, 1, 1), (2, 0, 2), (3, 2, 3), (4, 0, 4)), request_time=9)
    found = sequences_of([request], Most())
    assert found.events.item_row_N.tolist() == [1, 3]
    assert found.impressions.item_row_N.tolist() == [2, 4]


def test_a_user_without_events_has_empty_sequences() -> None:
    empty = OfflineRequest(history=history(), request_time=5)
    found: RequestSequences = sequences_of([empty, drawn(8), empty], Most())
    assert found.events.lengths[[0, 2]].tolist() == [0, 0]
    assert found.events.lengths[1] > 0
    assert found.events.item_row_N.dtype == found.impressions.timestamp_N.dtype == np.int64
    assert len(sequences_of([], Most()).events.offset_R1) == 1


def test_ranges_of_one_long_history_are_those_of_its_parts() -> None:
    long = history(*((item, 1, item) for item in range(30)))
    begin_R, end_R = np.array([3, 9, 9, 20]), np.array([7, 9, 30, 21])
    found = PackedSequences.taken(long, begin_R, end_R)
    parts = PackedSequences.of(
        [long[begin:end] for begin, end in zip(begin_R.tolist(), end_R.tolist(), strict=True)]
    )
    assert found.offset_R1.tolist() == parts.offset_R1.tolist() == [0, 4, 4, 25, 26]
    assert found.item_row_N.tolist() == parts.item_row_N.tolist()
    assert found.request_of_row.tolist() == [0] * 4 + [2] * 21 + [3]
    assert found.oldest(-1).tolist() == [3, -1, 9, 20]
