"""What the bench of the second ranker measures, on a tiny bundle and without a server."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.second_ranker import (
    USERS,
    SecondRankerPlan,
    config_of,
    drawn_history,
    measure_node,
    node_input,
    with_second_ranker,
    write_users,
)
from benchmarks.unified.plan import Kind
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from ensemble.stores.lmdb_store import LmdbHistoryStore

PLAN = SecondRankerPlan(out=Path(), sizes="tiny", threads=1, calls=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RandomBundle:
    return make_random_bundle(600, tmp_path_factory.mktemp("bundles"), lambda _: None, sizes="tiny")


@pytest.fixture(scope="module")
def bundle(made: RandomBundle) -> LoadedBundle:
    return LoadedBundle.open(with_second_ranker(made))


def test_a_bundle_is_made_once(made: RandomBundle, bundle: LoadedBundle) -> None:
    assert with_second_ranker(made) == bundle.folder
    assert bundle.manifest.second_ranker == "transact-v2"


def test_the_node_reads_full_sequences_and_is_measured_beside_its_parts(bundle: LoadedBundle) -> None:
    cost = measure_node(bundle, PLAN)
    assert cost.tokens == config_of(bundle).tokens
    assert cost.candidates == bundle.manifest.model.max_candidates
    assert set(cost.ms) == {"node", "encoder", "layers", "search"}
    assert all(0 < took.low <= took.mean <= took.high for took in cost.ms.values())


def test_only_the_candidates_own_rows_grow_with_their_number(bundle: LoadedBundle) -> None:
    bytes_of = measure_node(bundle, PLAN).input_bytes
    config = config_of(bundle)
    assert list(bytes_of) == [1, 16, 64]
    assert bytes_of[64] - bytes_of[16] == 48 * 8
    assert bytes_of[16] - bytes_of[1] == 15 * 8
    rows = config.max_events + config.max_impressions
    assert 20 * rows < bytes_of[1] < 2 * max(20 * rows, 4096) + 400
    assert node_input(bundle, ServingSettings(), 16)["CANDIDATE_ITEMS"].shape == (1, 16)


def test_stored_users_have_as_many_rows_as_the_model_reads(
    made: RandomBundle, bundle: LoadedBundle, tmp_path: Path
) -> None:
    config = config_of(bundle)
    names = write_users(tmp_path / "histories", made, config)
    assert {kind: len(users) for kind, users in names.items()} == USERS
    with LmdbHistoryStore(tmp_path / "histories") as store:
        found = store.read(names[Kind.WARM][0].encode())
    assert (found["actions"] > 0).sum() == config.max_events
    assert (found["actions"] == 0).sum() == config.max_impressions
    drawn = drawn_history(USERS[Kind.COLD], config)
    assert np.array_equal(found["item_id"], made.item_ids[drawn.item_row_N])
