"""A simulated log is in the event format, repeatable, and shows what its configuration says."""

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from commands.app import app
from tests.support.simulated import SMALL, small, small_rows
from unipinrec.data.events import EVENT_SCHEMA, validate_events, validate_items
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.simulator import SimulatorConfig, Truth, prepare_simulation, simulate
from unipinrec.simulator.config import LIFELONG
from unipinrec.simulator.simulation import INFO
from unipinrec.simulator.truth import external_user_ids

TINY = SMALL.model_copy(update={"users": 20, "items": 60, "sessions": 2.0})


def silent(_line: str) -> None:
    pass


def test_the_same_seed_gives_the_same_tables_and_another_seed_others() -> None:
    first, again = simulate(TINY, silent), simulate(TINY, silent)
    assert first.events.equals(again.events)
    assert first.items.equals(again.items)
    assert np.array_equal(first.truth.taste_FD, again.truth.taste_FD)
    other = simulate(TINY.model_copy(update={"seed": 4}), silent)
    assert not first.events.equals(other.events)
    assert not first.items.equals(other.items)


def test_the_tables_are_in_the_formats_as_they_are() -> None:
    events, items = small().events, small().items
    assert events.schema == EVENT_SCHEMA
    assert validate_events(events, INFO).equals(events)
    assert validate_items(items).equals(items)
    assert items["content"].list.len().unique().to_list() == [24]
    assert items["attributes"].list.first().to_list() == small().truth.topic_V.tolist()


def test_slates_have_10_to_30_items_without_repeats() -> None:
    rows = small_rows()
    size_F = np.bincount(rows.feedview_S)
    assert (size_F.min(), size_F.max()) == (10, 30)
    assert 19.5 < size_F.mean() < 20.5
    pair_S = rows.feedview_S * SMALL.items + rows.item_row_S
    assert len(np.unique(pair_S)) == len(pair_S)


def test_a_catalogue_as_small_as_a_slate_still_fills_it() -> None:
    config = TINY.model_copy(update={"items": 32, "cold_item_share": 0.05, "slate": (30, 30)})
    events = simulate(config, silent).events
    distinct = events.group_by("feedview_id").agg(pl.col("item_id").n_unique())
    assert distinct["item_id"].unique().to_list() == [30]


def test_cold_items_are_in_the_catalogue_and_never_shown() -> None:
    cold_V = small().truth.cold_V
    assert cold_V.sum() == 16
    shown_V = np.bincount(small_rows().item_row_S, minlength=SMALL.items) > 0
    assert not shown_V[cold_V].any()
    assert shown_V[~cold_V].all()
    assert len(small().items) == SMALL.items


def test_saving_and_sharing_need_a_click_and_hiding_excludes_one() -> None:
    click_S, save_S, hide_S, share_S = small_rows().done_SA.T
    for action_S in (save_S, share_S):
        assert action_S.sum() > 100
        assert click_S[action_S].all()
    assert hide_S.sum() > 100
    assert not click_S[hide_S].any()


def test_exploration_is_uniform_and_the_rest_is_not() -> None:
    rows, truth = small_rows(), small().truth
    assert np.array_equal(rows.explored_S, truth.explored_F[rows.feedview_S])
    share = truth.explored_F.mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(truth))
    for explored, low, high in ((True, -5, 5), (False, 50, np.inf)):
        shown_V = np.bincount(rows.item_row_S[rows.explored_S == explored], minlength=SMALL.items)
        warm_V = shown_V[~truth.cold_V]
        freedom = len(warm_V) - 1
        chi_square = ((warm_V - warm_V.mean()) ** 2 / warm_V.mean()).sum()
        assert low < (chi_square - freedom) / np.sqrt(2 * freedom) < high


def test_time_ascends_by_seconds_in_feedviews_and_by_hours_between_sessions() -> None:
    rows, truth = small_rows(), small().truth
    step_S = np.diff(rows.timestamp_S)
    same_feedview = np.diff(rows.feedview_S) == 0
    assert set(step_S[same_feedview]) == {1, 2, 3, 4}
    user_F, session_F = truth.user_F, truth.session_F
    same_session_F = (np.diff(user_F) == 0) & (np.diff(session_F) == 0)
    gap_F = step_S[~same_feedview]
    assert (gap_F[same_session_F].min(), gap_F[same_session_F].max()) == (20, 180)
    first_F = truth.timestamp_F[np.append(True, ~same_session_F)]
    first_user_F = user_F[np.append(True, ~same_session_F)]
    between = np.diff(first_F)[np.diff(first_user_F) == 0]
    assert between.min() >= 3_600
    assert np.median(between) > 86_400
    assert rows.timestamp_S.max() < SMALL.end
    assert rows.timestamp_S.min() >= SMALL.end - 90 * 86_400


def test_users_have_about_as_many_sessions_as_asked_for_and_1_to_4_feedviews_in_each() -> None:
    truth = small().truth
    first_F = np.append(True, (np.diff(truth.user_F) != 0) | (np.diff(truth.session_F) != 0))
    sessions_U = np.bincount(truth.user_F[first_F])
    assert len(sessions_U) == SMALL.users
    assert 7 < sessions_U.mean() < 9
    assert sessions_U.std() > 3
    assert set(np.bincount(np.cumsum(first_F))[1:]) == {1, 2, 3, 4}


def test_the_truth_beside_a_prepared_dataset_numbers_feedviews_and_items_alike(tmp_path: Path) -> None:
    prepare_simulation(tmp_path / "log", SMALL, silent)
    dataset, truth = InteractionDataset.load(tmp_path / "log"), Truth.load(tmp_path / "log")
    feedviews = dataset.feedviews
    assert truth.config == SMALL
    assert truth.timestamp_F.tolist() == feedviews.timestamp_F.tolist()
    assert truth.explored_F.tolist() == (feedviews.surface_F == 1).tolist()
    user_F = np.repeat(np.arange(len(dataset.user_ids_U)), np.diff(feedviews.offset_U1))
    assert truth.user_F.tolist() == user_F.tolist()
    assert dataset.user_ids_U.tolist() == external_user_ids(SMALL.users).tolist()
    assert dataset.attributes_VX[:, 0].tolist() == truth.topic_V.tolist()
    index = np.array([0, 70, len(truth) - 1])
    assert np.array_equal(truth.action_probabilities(index), small().truth.action_probabilities(index))


def test_a_truth_of_other_events_is_refused(tmp_path: Path) -> None:
    prepare_simulation(tmp_path / "a", TINY, silent)
    prepare_simulation(tmp_path / "b", TINY.model_copy(update={"seed": 9}), silent)
    (tmp_path / "b" / "truth.safetensors").replace(tmp_path / "a" / "truth.safetensors")
    with pytest.raises(PreparedDatasetError, match=r"truth\.safetensors is that of events .*; allowed: "):
        Truth.load(tmp_path / "a")
    with pytest.raises(PreparedDatasetError, match=r"has no truth\.safetensors$"):
        Truth.load(tmp_path / "b")
    (tmp_path / "b" / "truth.safetensors").write_bytes(b"other")
    with pytest.raises(PreparedDatasetError, match=r"truth\.safetensors is unreadable: "):
        Truth.load(tmp_path / "b")


def test_20_000_rows_take_less_than_a_second() -> None:
    begin = time.perf_counter()
    rows = len(simulate(SimulatorConfig(users=400, items=1_000), silent).events)
    assert rows > 150_000
    assert rows / (time.perf_counter() - begin) > 20_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"items": 100, "topics": 99}, "items is 100, 2 of them cold; allowed: at least 99 others"),
        ({"slate": (12, 10)}, "range is 12 to 10; allowed: the smaller number first"),
        ({"interests": (1, 3)}, r"interests is \(1, 3\); allowed: 2 to topics 40"),
        ({"near_topics": 40}, "near_topics is 40; allowed: 1 to 39"),
        ({"awake_interests": 3}, "awake_interests is 3; allowed: 0, or from 2 to fewer than interests 3"),
        ({"awake_interests": 1}, "awake_interests is 1; allowed: 0, or from 2"),
        ({"session_share": 0.9}, r"add up to 1\.4; allowed: 0 to 1"),
        ({"dwell": (1, 60)}, "shortest_gap is 3600; allowed: at least the longest session, 7740 s"),
        ({"sessions": 300.0, "days": 60.0}, r"days is 60\.0; allowed: at least 62\.5 for 1500 sessions"),
        ({"cold_item_share": 1.0}, "cold_item_share"),
    ],
)
def test_a_world_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SimulatorConfig.model_validate(values)


def test_the_command_writes_a_dataset_with_its_truth_once(tmp_path: Path) -> None:
    out = tmp_path / "log"
    command = ["data", "simulate", "--out", str(out), "--users", "20", "--items", "90", "--sessions", "2"]
    result = CliRunner().invoke(app, [*command, "--seed", "5"])
    assert result.exit_code == 0
    truth = Truth.load(out)
    assert truth.config == SimulatorConfig(users=20, items=90, sessions=2, seed=5)
    rows = len(InteractionDataset.load(out).feedviews.item_row_S)
    assert f"\n{rows:,} rows written to {out}\n" in result.stdout
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert refused.stderr.endswith("which exists; allowed: a new folder\n")


def test_the_command_makes_other_worlds(tmp_path: Path) -> None:
    out = tmp_path / "log"
    command = ["data", "simulate", "--out", str(out), "--users", "5", "--sessions", "3"]
    assert CliRunner().invoke(app, [*command, "--world", "lifelong"]).exit_code == 0
    assert Truth.load(out).config == LIFELONG.model_copy(update={"users": 5, "sessions": 3.0})
    refused = CliRunner().invoke(app, [*command, "--world", "flat"])
    assert refused.exit_code == 2
    assert refused.stderr == "world is flat; allowed: feed, lifelong\n"
