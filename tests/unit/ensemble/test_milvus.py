"""The item index in a real Milvus server, against brute force and against the bundle's own index."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from commands.app import app
from ensemble.arrays import PADDING
from ensemble.index.milvus.collection import Collection
from ensemble.index.milvus.item_search import MilvusSearch
from ensemble.index.unavailable import IndexUnavailableError
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode, open_index
from ensemble.settings import ServingSettings
from tests.conftest import Exported
from tests.support.milvus_server import milvus_server
from tests.support.waiting import holds_within

WIDTH = 32
TIMEOUT_S = 60.0

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with milvus_server(tmp_path_factory.mktemp("milvus") / "data") as server:
        yield server.url


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> LoadedBundle:
    return LoadedBundle.open(exported.bundle)


@pytest.fixture
def environment(url: str, loaded: LoadedBundle) -> dict[str, str]:
    return {"UNIPINREC_INDEX_URL": url, "UNIPINREC_BUNDLE": str(loaded.folder)}


def unit_vectors(seed: int, count: int, width: int = WIDTH) -> Vectors:
    drawn = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def nearest(query_QE: Vectors, vector_VE: Vectors, count: int, left_out: list[int]) -> NDArray[np.int64]:
    score_QV = query_QE.astype(np.float64) @ vector_VE.T.astype(np.float64)
    score_QV[:, left_out] = -np.inf
    return np.argsort(-score_QV, axis=1, kind="stable")[:, :count]


def share(found_QK: NDArray[np.int64], expected_QK: NDArray[np.int64]) -> float:
    return float(
        np.mean([np.isin(one, other).mean() for one, other in zip(expected_QK, found_QK, strict=True)])
    )


@pytest.mark.parametrize(
    ("index_type", "many"),
    [("FLAT", 3_000), ("HNSW", 3_000), pytest.param("FLAT", 100_000, marks=pytest.mark.slow)],
)
def test_a_search_finds_what_an_exact_one_finds(url: str, index_type: str, many: int) -> None:
    vector_VE, query_QE = unit_vectors(0, many), unit_vectors(1, 4)
    collection = Collection(url, None, f"recall_{index_type}_{many}", TIMEOUT_S)
    collection.create(WIDTH, index_type)
    assert list(collection.fill(vector_VE))[-1] == many
    search = MilvusSearch(collection, many)
    expected_QK = nearest(query_QE, vector_VE, 100, [])
    assert share(search.nearest(query_QE, 100, np.empty(0, np.int64)), expected_QK) >= 0.99
    out = expected_QK[:, :20].ravel().tolist()
    found_QK = search.nearest(query_QE, 100, np.array(out[:40]), np.array(out[40:]))
    assert share(found_QK, nearest(query_QE, vector_VE, 100, out)) >= 0.99
    assert not np.isin(found_QK, out).any()
    collection.drop()


def test_the_next_search_knows_what_was_added_and_removed(url: str) -> None:
    vector_VE, query_QE = unit_vectors(0, 3_000), unit_vectors(1, 4)
    collection = Collection(url, None, "changes", TIMEOUT_S)
    collection.create(WIDTH, "FLAT")
    list(collection.fill(vector_VE[:2_000]))
    collection.load()
    nothing = np.empty(0, np.int64)
    collection.put(2_000, vector_VE[2_000:])
    assert (collection.search(query_QE, 50, nothing) == nearest(query_QE, vector_VE, 50, [])).all()
    gone = list(range(0, 2_000, 2))
    collection.remove(np.array(gone))
    assert (collection.search(query_QE, 50, nothing) == nearest(query_QE, vector_VE, 50, gone)).all()
    assert collection.count() == 2_000
    collection.drop()


def test_a_node_answers_from_milvus_as_from_the_bundles_index(
    loaded: LoadedBundle, environment: dict[str, str]
) -> None:
    """Pushed by the command; a catalogue of fewer items than are wanted pads."""
    pushed = CliRunner().invoke(app, ["index", "push", "--index-type", "FLAT"], env=environment)
    assert pushed.exit_code == 0, pushed.output
    items = loaded.manifest.model.num_items
    assert f"{items:,} items in unipinrec_{loaded.id}" in pushed.output
    settings = ServingSettings(index_url=environment["UNIPINREC_INDEX_URL"])
    there, own = AnnNode(loaded, settings), AnnNode(loaded, ServingSettings())
    query_QE = unit_vectors(5, 3, loaded.item_vectors().shape[1])
    assert (there.nearest(query_QE, 40) == own.nearest(query_QE, 40)).all()
    searched = open_index(loaded, settings)
    found_QK = searched.nearest(query_QE, items + 5, np.array([3, 4]))
    assert (found_QK[:, items - 2 :] == PADDING).all()
    assert np.sort(found_QK[0, : items - 2]).tolist() == [row for row in range(items) if row not in (3, 4)]


def test_a_bundle_whose_items_are_not_there_is_refused(
    loaded: LoadedBundle, url: str, environment: dict[str, str]
) -> None:
    settings = ServingSettings(index_url=url)
    assert CliRunner().invoke(app, ["index", "push"], env=environment).exit_code == 0
    collection = Collection(url, None, loaded.id, TIMEOUT_S)
    collection.remove(np.arange(10))
    items = loaded.manifest.model.num_items
    message = rf"has {items - 10} of {items} items; `unipinrec index push` fills it$"
    with pytest.raises(IndexUnavailableError, match=message):
        open_index(loaded, settings)
    assert CliRunner().invoke(app, ["index", "drop"], env=environment).exit_code == 0
    with pytest.raises(IndexUnavailableError, match=r"is not there; `unipinrec index push` fills it$"):
        open_index(loaded, settings)


def test_a_server_that_hangs_or_is_away_refuses_requests_in_bounded_time_and_heals(
    loaded: LoadedBundle, tmp_path: Path
) -> None:
    with milvus_server(tmp_path / "data") as server:
        environment = {"UNIPINREC_INDEX_URL": server.url, "UNIPINREC_BUNDLE": str(loaded.folder)}
        assert CliRunner().invoke(app, ["index", "push"], env=environment).exit_code == 0
        node = AnnNode(loaded, ServingSettings(index_url=server.url, index_timeout_ms=1_000))
        query_QE = unit_vectors(5, 1, loaded.item_vectors().shape[1])
        before_QK = node.nearest(query_QE, 5)
        server.process.suspend()
        check_refused(node, query_QE)
        server.process.resume()
        assert holds_within(60, lambda: answers(node, query_QE) == before_QK.tolist())
    check_refused(node, query_QE)
    missing = CliRunner().invoke(app, ["index", "drop"], env=environment)
    assert missing.exit_code == 2
    assert missing.stderr.startswith("Milvus at 127.0.0.1:")
    assert len(missing.stderr.splitlines()) == 1
    with milvus_server(tmp_path / "data", int(server.url.rpartition(":")[2])):
        assert holds_within(60, lambda: answers(node, query_QE) == before_QK.tolist())


def check_refused(node: AnnNode, query_QE: Vectors) -> None:
    """What comes right behind a request that waited in vain does not wait."""
    with pytest.raises(IndexUnavailableError, match=r"^Milvus at 127\.0\.0\.1:\d+: no answer within 1 s$"):
        node.nearest(query_QE, 5)
    with pytest.raises(IndexUnavailableError, match=r"has not answered a moment ago$"):
        node.nearest(query_QE, 5)


def answers(node: AnnNode, query_QE: Vectors) -> list[list[int]] | None:
    try:
        return node.nearest(query_QE, 5).tolist()
    except IndexUnavailableError:
        return None


def test_without_an_address_the_command_says_what_is_missing() -> None:
    refused = CliRunner().invoke(app, ["index", "push"], env={"UNIPINREC_INDEX_URL": ""})
    assert refused.exit_code == 2
    assert "UNIPINREC_INDEX_URL is not set" in refused.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:19530", "http://", "http://u:p@127.0.0.1:1", "milvus.db"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="allowed: http://host:port or https://host:port"):
        ServingSettings(index_url=url)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    environment = {"UNIPINREC_INDEX_URL": "http://u:hushed@127.0.0.1:19530"}
    refused = CliRunner().invoke(app, ["index", "push"], env=environment)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("index_url is not shown; allowed: http://host:port")
    assert "hushed" not in refused.output
