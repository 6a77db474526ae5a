"""Slates as examples: what is known of each comes from before it, and is what evaluation and serving make."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.simulated import SMALL
from tests.support.slates import Shown, load, random_rows
from unipinrec.data.interactions import InteractionDataset, Split, split_at_time, split_leave_one_out
from unipinrec.data.sequences import sequences_of
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.common.rates import rate_history
from unipinrec.models.transact.batch import NearestRows, PackedEvents, RankingBatch, RequestBatch
from unipinrec.models.transact.examples import SlateConfig, SlateExamples
from unipinrec.simulator import prepare_simulation

ALL = SlateConfig(feedviews_per_user=1_000, kept_without_engagement=1.0)
END = 2**40


@dataclass(frozen=True)
class Most:
    max_events: int = 8
    max_impressions: int = 10


def whole(dataset: InteractionDataset) -> Split:
    return split_at_time(dataset, END)


def everything(dataset: InteractionDataset) -> RankingBatch:
    """All feedviews, in order."""
    examples = SlateExamples(dataset, Most(), ALL, whole(dataset))
    return examples[np.arange(len(examples))]


def tensors(batch: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield name, batch
    elif batch is not None:
        for part in type(batch).__slots__:
            yield from tensors(getattr(batch, part), f"{name}.{part}")


def assert_equal(found: object, expected: object) -> None:
    for (name, a), (_, b) in zip(tensors(found), tensors(expected), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("history_impressions", [False, True])
def test_sequences_and_rates_are_those_that_evaluation_makes(
    tmp_path: Path, history_impressions: bool
) -> None:
    dataset = load(tmp_path, random_rows(1), history_impressions=history_impressions)
    examples = SlateExamples(dataset, Most(), ALL, whole(dataset))
    views = FutureFeedviews.of(dataset, split_at_time(dataset, 0), most_per_user=1_000)
    sequences = sequences_of(views.requests(), Most())
    found = examples[np.arange(len(examples))]
    assert len(examples) == len(dataset.feedviews) > 40
    assert_equal(found.requests.events, PackedEvents.of(sequences.events))
    assert_equal(found.requests.impressions, PackedEvents.of(sequences.impressions))
    assert found.requests.events.lengths.max() == Most.max_events
    assert found.requests.impressions.lengths.max() == Most.max_impressions
    users = examples.base_rates().users(sequences, Most())
    assert np.array_equal(found.requests.user_rate_RA.numpy(), users.user_rate_RA)
    assert found.user_R.tolist() == views.user_F.tolist()


def test_candidates_and_labels_are_the_slates(tmp_path: Path) -> None:
    rows = random_rows(2)
    batch = everything(load(tmp_path, rows))
    expected: dict[tuple[str, int | None], dict[int, int]] = {}
    for row in rows:
        slate = expected.setdefault((row.user_id, row.feedview_id), {})
        slate[row.item_id] = slate.get(row.item_id, 0) | row.actions
    assert any(len(slate) < sum(r[::5] == key for r in rows) for key, slate in expected.items())
    label_CA = batch.label_CA.long()
    actions_C = (label_CA << torch.arange(3)).sum(1)
    for (begin, end), slate in zip(
        batch.requests.candidate_offset_R1.unfold(0, 2, 1).tolist(), expected.values(), strict=True
    ):
        items = batch.requests.candidate_item_C[begin:end].tolist()
        assert dict(zip(items, actions_C[begin:end].tolist(), strict=True)) == slate


def test_counts_of_items_are_those_of_a_walk_over_earlier_slates(tmp_path: Path) -> None:
    rows = random_rows(3)
    batch = everything(load(tmp_path, rows)).requests
    times: dict[tuple[str, int | None], int] = {}
    pairs: set[tuple[str, int | None, int]] = set()
    for row in rows:
        times.setdefault(row[::5], row.timestamp)
        pairs.add((row.user_id, row.feedview_id, row.item_id))
    expected = [
        sum(item == shown and times[user, feedview] < asked for user, feedview, shown in pairs)
        for item, asked in zip(
            batch.candidate_item_C.tolist(),
            batch.request_time_R[batch.request_of_candidate].tolist(),
            strict=True,
        )
    ]
    assert batch.item_shown_C.numpy() == pytest.approx(np.log1p(expected), rel=1e-6)
    assert len(set(times.values())) < len(times) / 2


def test_no_label_is_in_the_features_of_its_own_slate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two actions of one slate change places, so that the global rates stay what they are. Strengths, which
    many slates choose, are fixed."""
    monkeypatch.setattr(rate_history, "STRENGTHS", (10.0,))
    rows = random_rows(4, users=8)
    of_slates: dict[tuple[str, int | None], list[int]] = {}
    for index, row in enumerate(rows):
        of_slates.setdefault(row[::5], []).append(index)
    changes = 0
    for number, (key, places) in enumerate(of_slates.items()):
        acted = [place for place in places if rows[place].actions]
        passed = [
            place
            for place in places
            if sum(rows[place].item_id == rows[other].item_id for other in places) == 1
            and not rows[place].actions
        ]
        if len(acted) != 1 or not passed or rows[acted[0]].timestamp != rows[passed[0]].timestamp:
            continue
        first, second = acted[0], passed[0]
        swapped = list(rows)
        swapped[first] = rows[first]._replace(actions=0)
        swapped[second] = rows[second]._replace(actions=rows[first].actions)
        before, after = (
            everything(load(tmp_path / f"{number}-{which}", log)) for which, log in enumerate((rows, swapped))
        )
        own = slice(number, number + 1)
        assert not torch.equal(before.rows(own).label_CA, after.rows(own).label_CA), key
        assert_equal(before.rows(own).requests, after.rows(own).requests)
        changes += int(not torch.equal(before.requests.item_rate_CA, after.requests.item_rate_CA))
    assert changes > 3


def test_nothing_held_out_is_shown_or_counted(tmp_path: Path) -> None:
    dataset = load(tmp_path, random_rows(5))
    split = split_leave_one_out(dataset)
    examples = SlateExamples(dataset, Most(), ALL)
    seen = examples[np.arange(len(examples))]
    held_out = {
        (user, int(dataset.history(user).timestamp_N[split.train_end_U[user]]))
        for user in np.flatnonzero(split.held_out_U).tolist()
    }
    assert len(held_out) == 5
    latest = {user: int(seen.requests.request_time_R[seen.user_R == user].max()) for user, _ in held_out}
    assert all(latest[user] <= begin for user, begin in held_out)
    events = seen.requests.events
    for request, user in enumerate(seen.user_R.tolist()):
        rows = slice(*events.offset_R1[request : request + 2].tolist())
        assert events.timestamp_N[rows].numel() <= split.train_end_U[user]
    assert (
        examples.base_rates().item_shown_V.sum()
        < SlateExamples(dataset, Most(), ALL, whole(dataset)).base_rates().item_shown_V.sum()
    )


def test_the_same_seed_and_epoch_give_the_same_examples(tmp_path: Path) -> None:
    dataset = load(tmp_path, random_rows(6))
    config = SlateConfig(feedviews_per_user=3, kept_without_engagement=0.5)

    def epoch(seed: int, number: int, order: int = 0) -> list[RankingBatch]:
        examples = SlateExamples(dataset, Most(), config.model_copy(update={"seed": seed}))
        examples.set_epoch(number)
        assert len(examples) <= 3 * 6
        return list(examples.batches(batch_size=4, seed=order))

    first, again = epoch(0, 1), epoch(0, 1)
    assert [len(batch.user_R) for batch in first] == [4, 4, 4, 4, len(first[-1].user_R)]
    for a, b in zip(first, again, strict=True):
        assert_equal(a, b)
    for seed, number, order in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        other = epoch(seed, number, order)
        assert any(a.requests.request_time_R.tolist() != b.requests.request_time_R.tolist()
                   for a, b in zip(first, other, strict=True))  # fmt: skip


def test_an_epoch_takes_as_many_of_each_user_and_passive_ones_by_their_share(tmp_path: Path) -> None:
    rows = [
        Shown(f"u{user}", item, int(view % 2 == 0 and user > 0), 0, 100 * view + item, view)
        for user in range(8)
        for view in range(40)
        for item in range(2)
    ]
    dataset = load(tmp_path, rows)
    config = SlateConfig(feedviews_per_user=1_000, kept_without_engagement=0.25)
    examples = SlateExamples(dataset, Most(), config, whole(dataset))
    seen, lengths = set(), set()
    for epoch in range(30):
        examples.set_epoch(epoch)
        lengths.add(len(examples))
        batch = examples[np.arange(len(examples))]
        of_slate = batch.requests.request_of_candidate
        passive_R = torch.zeros(len(batch.user_R)).index_add(0, of_slate, batch.label_CA.sum(1)) == 0
        assert torch.bincount(batch.user_R[~passive_R]).tolist() == [0] + [20] * 7
        # The first user never acts, and so keeps all.
        assert torch.bincount(batch.user_R[passive_R]).tolist() == [40] + [5] * 7
        seen |= set(batch.requests.request_time_R[passive_R & (batch.user_R == 3)].tolist())
    assert lengths == {40 + 7 * 25}
    assert len(seen) == 20
    few = SlateExamples(dataset, Most(), SlateConfig(feedviews_per_user=6), whole(dataset))
    assert torch.bincount(few[np.arange(len(few))].user_R).tolist() == [6] * 8


def test_a_dataset_without_impressions_gets_sampled_candidates_and_no_rates(tmp_path: Path) -> None:
    rows = [row for row in random_rows(7, users=30, feedviews=2) if row.actions]
    dataset = load(tmp_path, rows, sampled_impressions=True)
    config = ALL.model_copy(update={"sampled_impressions_per_feedview": 3})
    examples = SlateExamples(dataset, Most(), config)
    batch = examples[np.arange(len(examples))]
    requests = batch.requests
    added_C = batch.label_CA.sum(1) == 0
    assert torch.bincount(requests.request_of_candidate[added_C]).max() == 3
    train_end_U = split_leave_one_out(dataset).train_end_U
    for user, item in zip(
        batch.user_R[requests.request_of_candidate[added_C]].tolist(),
        requests.candidate_item_C[added_C].tolist(),
        strict=True,
    ):
        assert item not in dataset.history(user).item_row_N[: train_end_U[user]]
    assert torch.equal(batch.user_R[requests.request_of_candidate].sort().values,
                       batch.user_R[requests.request_of_candidate])  # fmt: skip
    assert len(requests.impressions.item_row_N) == 0
    for name in ("user_rate_RA", "item_rate_CA", "attribute_rate_CA"):
        assert getattr(requests, name).abs().max() < 1e-6
    prior_A = examples.base_rates().prior_A
    assert 1 / (1 + np.exp(-prior_A)) == pytest.approx(batch.label_CA.mean(0).numpy(), abs=0.05)


def test_some_requests_of_a_batch_are_those_asked_for_alone(tmp_path: Path) -> None:
    dataset = load(tmp_path, random_rows(8))

    def nearest(requests: RequestBatch) -> NearestRows:
        """The first rows of each request, counted from the start of the batch."""
        request_C = requests.request_of_candidate

        def rows(packed: PackedEvents) -> tuple[Tensor, Tensor]:
            count_C = packed.lengths[request_C].clamp(max=2)
            row_CK = packed.offset_R1[request_C, None] + torch.arange(2)
            return torch.where(torch.arange(2) < count_C[:, None], row_CK, 0), count_C

        event_CK, event_C = rows(requests.events)
        impression_CK, impression_C = rows(requests.impressions)
        return NearestRows(
            older_CK=event_CK, older_count_C=event_C, realtime_CK=event_CK, realtime_count_C=event_C,
            impression_CK=impression_CK, impression_count_C=impression_C,
        )  # fmt: skip

    examples = SlateExamples(dataset, Most(), ALL, nearest=nearest)
    chosen = np.array([7, 3, 30, 11, 20])
    batch = examples[chosen]
    for begin, end in ((0, 2), (2, 5), (4, 5)):
        assert_equal(batch.rows(slice(begin, end)), examples[chosen[begin:end]])
    assert_equal(batch.to(torch.device("cpu")), batch)


def test_preparing_takes_seconds_and_a_batch_milliseconds(tmp_path: Path) -> None:
    """Of a tenth of the default simulation; a loop over rows would take a hundred times as long."""
    prepare_simulation(tmp_path / "small", SMALL, lambda _: None)
    dataset = InteractionDataset.load(tmp_path / "small")
    started = time.process_time()
    examples = SlateExamples(dataset, Most(100, 1_000), SlateConfig())
    assert time.process_time() - started < 3
    took = []
    for begin in range(0, 640, 64):
        started = time.process_time()
        assert len(examples[np.arange(begin, begin + 64)].user_R) == 64
        took.append(time.process_time() - started)
    assert min(took) < 0.03
