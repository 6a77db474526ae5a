"""Every kind of item index against brute force in NumPy, on clustered vectors."""

import hashlib
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.synthetic_vectors import draw_clustered
from ensemble.index.item_search import ItemSearch
from export.item_index import EXACT_UP_TO, UnknownIndexError, build_index, choose_kind
from unipinrec.bundle import INDEX_KINDS, IndexKind

ITEMS, QUERIES, WIDTH = 4_000, 100, 32
RECALL_FLOORS = {"flat": 1.0, "hnsw": 0.99, "ivf_hnsw": 0.97, "sq8": 0.95}
NOTHING = np.empty(0, np.int64)
FILE_HASH = """
import sys
import faiss
from benchmarks.synthetic_vectors import draw_clustered
from export.item_index import build_index
faiss.omp_set_num_threads(int(sys.argv[3]))
faiss.write_index(build_index(sys.argv[1], draw_clustered(2_000, 1, 32, 1).vector_VE), sys.argv[2])
"""

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]


@pytest.fixture(scope="module")
def vectors() -> tuple[Floats, Floats]:
    return draw_clustered(ITEMS, QUERIES, WIDTH, seed=3)


@pytest.fixture(scope="module", params=INDEX_KINDS)
def kind(request: pytest.FixtureRequest) -> IndexKind:
    return request.param


@pytest.fixture(scope="module")
def stored(kind: IndexKind, vectors: tuple[Floats, Floats], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "items.faiss"
    faiss.write_index(build_index(kind, vectors[0]), str(path))
    return path


def nearest(vector_VE: Floats, query_QE: Floats, count: int) -> Int64s:
    """Rows of largest inner product, best first."""
    score_QV = query_QE.astype(np.float64) @ vector_VE.astype(np.float64).T
    return np.argsort(-score_QV, axis=1, kind="stable")[:, :count]


def recall(found_QK: Int64s, expected_QK: Int64s) -> float:
    pairs = zip(found_QK.tolist(), expected_QK.tolist(), strict=True)
    return float(np.mean([len({*found} & {*expected}) / len(expected) for found, expected in pairs]))


def test_synthetic_vectors_are_unit_clustered_and_reproducible() -> None:
    vector_VE, query_QE = draw_clustered(2_000, 50, WIDTH, seed=4)
    assert np.abs(np.linalg.norm(np.concatenate([vector_VE, query_QE]), axis=1) - 1).max() < 1e-6
    score_QV = np.sort(query_QE @ vector_VE.T, axis=1)
    assert np.median(score_QV[:, -10]) > np.median(score_QV) + 0.2
    assert score_QV.max() < 0.9999
    again = draw_clustered(2_000, 50, WIDTH, seed=4)
    assert np.array_equal(again.vector_VE, vector_VE)
    assert np.array_equal(again.query_QE, query_QE)


@pytest.mark.parametrize("count", [10, 100, 700])
def test_a_stored_index_finds_nearly_all_of_the_nearest_items(
    kind: IndexKind, stored: Path, vectors: tuple[Floats, Floats], count: int
) -> None:
    vector_VE, query_QE = vectors
    found_QK = ItemSearch.open(stored, threads=1).nearest(query_QE, count, NOTHING)
    assert found_QK.shape == (QUERIES, count)
    assert recall(found_QK, nearest(vector_VE, query_QE, count)) >= RECALL_FLOORS[kind]


def test_items_found_come_best_first(kind: IndexKind, stored: Path, vectors: tuple[Floats, Floats]) -> None:
    vector_VE, query_QE = vectors
    found_QK = ItemSearch.open(stored, threads=1).nearest(query_QE, 50, NOTHING)
    score_QK = np.einsum("qe,qke->qk", query_QE.astype(np.float64), vector_VE[found_QK].astype(np.float64))
    step_E = (vector_VE.max(axis=0) - vector_VE.min(axis=0)) / 255
    coarseness_Q = np.abs(query_QE) @ step_E if kind == "sq8" else np.full(QUERIES, 1e-6)
    assert (np.diff(score_QK, axis=1).max(axis=1) <= coarseness_Q).all()


def test_the_nearest_items_left_out_are_replaced_by_the_next(
    kind: IndexKind, stored: Path, vectors: tuple[Floats, Floats]
) -> None:
    vector_VE, query_QE = vectors
    search = ItemSearch.open(stored, threads=1)
    expected_QK = nearest(vector_VE, query_QE, 628)
    found_QK = np.concatenate(
        [search.nearest(query_QE[row : row + 1], 128, expected_QK[row, :500]) for row in range(len(query_QE))]
    )
    for found_K, expected_K in zip(found_QK, expected_QK, strict=True):
        assert not np.isin(found_K, expected_K[:500]).any()
    assert recall(found_QK, expected_QK[:, 500:]) >= RECALL_FLOORS[kind] - 0.05


def test_an_item_left_out_twice_is_left_out_once(stored: Path, vectors: tuple[Floats, Floats]) -> None:
    query_1E = vectors[1][:1]
    search = ItemSearch.open(stored, threads=1)
    first = search.nearest(query_1E, 3, NOTHING)[0]
    once, twice = (search.nearest(query_1E, 20, np.repeat(first, times)) for times in (1, 2))
    assert not np.isin(first, once).any()
    assert once.tolist() == twice.tolist()


@pytest.mark.parametrize("lossless", ["flat", "hnsw", "ivf_hnsw"])
def test_a_lossless_index_holds_the_exact_vectors(
    lossless: IndexKind, vectors: tuple[Floats, Floats]
) -> None:
    index = build_index(lossless, vectors[0])
    _, found_QK, vector_QKE = index.search_and_reconstruct(vectors[1][:5], 20)
    assert np.array_equal(vector_QKE, vectors[0][found_QK])


def test_an_8_bit_index_takes_a_quarter_of_the_memory(vectors: tuple[Floats, Floats]) -> None:
    exact, coarse = (faiss.serialize_index(build_index(kind, vectors[0])).nbytes for kind in ("flat", "sq8"))
    assert exact == pytest.approx(ITEMS * WIDTH * 4, rel=0.01)
    assert coarse == pytest.approx(ITEMS * WIDTH, rel=0.01)


def test_equal_vectors_make_equal_files_in_processes_of_any_number_of_threads(
    kind: IndexKind, tmp_path: Path
) -> None:
    hashes = set()
    for threads in ("1", "2"):
        path = tmp_path / threads
        subprocess.run([sys.executable, "-c", FILE_HASH, kind, str(path), threads], check=True)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_building_leaves_the_number_of_threads_as_it_was() -> None:
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        build_index("hnsw", draw_clustered(50, 1, 8, seed=5).vector_VE)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("items", [*range(1, 18), 31, 32, 33, 50])
def test_in_a_tiny_catalogue_more_than_all_items_find_all_of_them(kind: IndexKind, items: int) -> None:
    vector_VE, query_QE = draw_clustered(items, 4, 8, seed=items)
    search = ItemSearch(build_index(kind, vector_VE))
    found_QK = search.nearest(query_QE, items + 100, NOTHING)
    assert np.sort(found_QK, axis=1).tolist() == [list(range(items))] * 4
    left_out = np.arange(0, items, 2)
    kept_QK = np.sort(search.nearest(query_QE, items, left_out), axis=1)
    assert kept_QK.tolist() == [[-1] * len(left_out) + list(range(1, items, 2))] * 4


@pytest.mark.parametrize("kind_asked", INDEX_KINDS)
@pytest.mark.parametrize("items", [1, 10_000_000])
def test_a_kind_asked_for_is_what_is_built(kind_asked: IndexKind, items: int) -> None:
    assert choose_kind(kind_asked, items) == kind_asked


def test_a_small_catalogue_is_searched_exactly_unless_another_kind_is_asked_for() -> None:
    assert choose_kind("auto", 1) == choose_kind("auto", EXACT_UP_TO) == "flat"
    assert choose_kind("auto", EXACT_UP_TO + 1) == choose_kind("auto", 10_000_000) == "hnsw"


@pytest.mark.parametrize("unknown", ["foo", "", "HNSW", "ivf"])
def test_an_unknown_kind_is_refused(unknown: str) -> None:
    with pytest.raises(
        UnknownIndexError, match=f"^index is {unknown}; allowed: flat, hnsw, ivf_hnsw, sq8, auto$"
    ):
        choose_kind(unknown, 100)
