"""Catalogues in which many items have one vector, as those that nobody has acted on."""

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.index.cuda.item_search import search_on_gpu
from ensemble.index.item_search import ItemSearch
from export import item_index
from export.item_index import IndexRecallError, build_checked, build_index, first_of_each
from tests.support import gpu_stand_in
from unipinrec.bundle import INDEX_KINDS, IndexKind

KNOWN, COLD, WIDTH, QUERIES = 1_100, 3_000, 16, 40
NOTHING = np.empty(0, np.int64)

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]


def unit(vector_XE: NDArray[np.floating]) -> Floats:
    return (vector_XE / np.linalg.norm(vector_XE, axis=1, keepdims=True)).astype(np.float32)


def catalogue(crowd_noise: float) -> tuple[Floats, Floats]:
    """Shuffled vectors of known items and of a crowd of cold ones, and queries near known ones."""
    draw = np.random.default_rng(0)
    known = unit(draw.normal(size=(KNOWN, WIDTH)))
    middle = unit(known.mean(axis=0, keepdims=True))
    crowd = unit(middle + crowd_noise * draw.normal(size=(COLD, WIDTH)))
    query_QE = unit(known[:QUERIES] + 0.05 * draw.normal(size=(QUERIES, WIDTH)))
    return np.concatenate([known, crowd])[draw.permutation(KNOWN + COLD)], query_QE


@pytest.fixture(scope="module")
def cold() -> tuple[Floats, Floats]:
    return catalogue(0.0)


@pytest.fixture(scope="module")
def graph(cold: tuple[Floats, Floats], tmp_path_factory: pytest.TempPathFactory) -> ItemSearch:
    path = tmp_path_factory.mktemp("index") / "items.faiss"
    faiss.write_index(build_index("hnsw", cold[0]), str(path))
    return ItemSearch.open(path, threads=1)


def exact(vector_VE: Floats, query_QE: Floats, count: int, left_out: list[int]) -> list[list[int]]:
    """Rows of largest inner product; of equal vectors, the lower row first."""
    # One product for each vector, so that equal vectors have equal scores.
    distinct, group_V = np.unique(vector_VE, axis=0, return_inverse=True)
    score_QV = (query_QE.astype(np.float64) @ distinct.T.astype(np.float64))[:, group_V]
    order_QV = np.argsort(-score_QV, axis=1, kind="stable")
    return [[row for row in order.tolist() if row not in left_out][:count] for order in order_QV]


def crowd(vector_VE: Floats) -> list[int]:
    size = np.bincount(first_of_each(vector_VE), minlength=len(vector_VE))
    return np.flatnonzero(first_of_each(vector_VE) == size.argmax()).tolist()


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_known_items_are_found_beside_a_crowd_of_cold_ones(
    kind: IndexKind, cold: tuple[Floats, Floats]
) -> None:
    vector_VE, query_QE = cold
    found_QK = ItemSearch(build_index(kind, vector_VE)).nearest(query_QE, 20, NOTHING)
    pairs = zip(found_QK.tolist(), exact(vector_VE, query_QE, 20, []), strict=True)
    recall = np.mean([len({*found} & {*right}) / 20 for found, right in pairs])
    assert recall >= {"flat": 1.0, "hnsw": 0.998, "ivf_hnsw": 0.8, "sq8": 0.95}[kind]


def test_a_graph_gives_the_crowd_in_the_order_of_its_rows(
    graph: ItemSearch, cold: tuple[Floats, Floats]
) -> None:
    members = crowd(cold[0])
    assert len(members) == COLD
    query_1E = cold[0][members[:1]]
    found = graph.nearest(query_1E, 100, NOTHING)[0].tolist()
    assert found == members[:100] == exact(cold[0], query_1E, 100, [])[0]


@pytest.mark.parametrize("kept", [0, 1, 7])
def test_left_out_items_of_the_crowd_stay_out_and_the_others_stay_in(
    graph: ItemSearch, cold: tuple[Floats, Floats], kept: int
) -> None:
    """Of the crowd all but the last `kept` are left out; the first of it, for which the graph stands, is."""
    vector_VE = cold[0]
    members = crowd(vector_VE)
    left_out = members[: COLD - kept] + members[:3]
    query_1E = vector_VE[members[:1]]
    found = graph.nearest(query_1E, 30, np.array(left_out))[0].tolist()
    assert found[:kept] == members[COLD - kept :]
    assert found == exact(vector_VE, query_1E, 30, left_out)[0]


def test_the_whole_catalogue_is_within_reach_and_no_more(
    graph: ItemSearch, cold: tuple[Floats, Floats]
) -> None:
    found = graph.nearest(cold[1][:1], 2 * len(cold[0]), NOTHING)[0]
    assert sorted(found.tolist()) == list(range(len(cold[0])))
    everything = np.arange(len(cold[0]))
    assert (graph.nearest(cold[1], 20, everything) == -1).all()


def test_a_catalogue_of_one_vector_is_searched() -> None:
    search = ItemSearch(build_index("hnsw", np.tile(np.eye(1, 8, dtype=np.float32), (50, 1))))
    found = search.nearest(np.ones((1, 8), np.float32), 5, np.array([0, 2]))
    assert found.tolist() == [[1, 3, 4, 5, 6]]


def test_rounding_makes_no_difference_between_vectors(cold: tuple[Floats, Floats]) -> None:
    vector_VE = cold[0] + np.float32(1e-8) * np.random.default_rng(1).normal(size=cold[0].shape).astype("f")
    assert len(np.unique(vector_VE, axis=0)) > 1.3 * KNOWN
    assert len(np.unique(first_of_each(vector_VE))) < 1.1 * KNOWN
    negative_zero = np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32)
    assert first_of_each(negative_zero).tolist() == [0, 0]


def test_a_gpu_gets_each_vector_once(
    graph: ItemSearch, cold: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_stand_in.install(monkeypatch)
    vector_VE, query_QE = cold
    members = crowd(vector_VE)
    search = search_on_gpu(graph, vector_VE)
    for query_1E, left_out in ((query_QE[:1], []), (vector_VE[members[:1]], members[:40])):
        found = search.nearest(query_1E, 30, np.array(left_out, np.int64))
        assert found.tolist() == exact(vector_VE, query_1E, 30, left_out)


def test_a_graph_that_finds_too_little_is_refused() -> None:
    """The crowd differs by more than rounding and by less than a graph can tell apart."""
    vector_VE = catalogue(1e-5)[0]
    with pytest.raises(
        IndexRecallError,
        match=r"^recall@100 of hnsw is 0\.\d{3} over these vectors, many nearly equal; allowed: 0\.95 to 1, "
        r"or --index flat, which is exact$",
    ):
        build_checked("hnsw", vector_VE, pytest.fail)


def test_auto_takes_exact_search_where_a_graph_finds_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    # A catalogue so large that auto tries a graph takes half a minute to build.
    monkeypatch.setattr(item_index, "EXACT_UP_TO", KNOWN)
    lines: list[str] = []
    vector_VE, query_QE = catalogue(1e-5)
    kind, index = build_checked("auto", vector_VE, lines.append)
    assert kind == "flat"
    assert isinstance(index, faiss.IndexFlatIP)
    assert len(lines) == 1
    assert lines[0].endswith(", and at least 0.95 is wanted; flat is taken, which is exact")
    assert build_checked("auto", catalogue(0.0)[0], pytest.fail)[0] == "hnsw"
    assert ItemSearch(index).nearest(query_QE, 5, NOTHING).shape == (QUERIES, 5)
