"""The `ann` node against brute force in NumPy, on an exported bundle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode, Candidates
from ensemble.nodes.sealed_history import left_out_to_bytes
from ensemble.settings import ServingSettings
from export.item_index import build_index
from tests.conftest import ITEMS, Exported
from tests.support.seals import resealed, sealed
from unipinrec.bundle import INDEX, INDEX_KINDS, IndexKind
from unipinrec.bundle import ITEMS as ITEMS_FILE
from unipinrec.models.unified.queries import split_budget

MAX_CANDIDATES = 128

Queries = NDArray[np.float32]


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> LoadedBundle:
    return LoadedBundle.open(exported.bundle)


@pytest.fixture(scope="module")
def item_vectors(exported: Exported) -> Queries:
    return load_file(exported.bundle / ITEMS_FILE)["vector_VE"]


@pytest.fixture(scope="module")
def node(loaded: LoadedBundle) -> AnnNode:
    return AnnNode(loaded, ServingSettings())


@pytest.fixture(scope="module", params=INDEX_KINDS)
def kind(request: pytest.FixtureRequest) -> IndexKind:
    return request.param


@pytest.fixture(scope="module")
def node_of_kind(
    kind: IndexKind,
    loaded: LoadedBundle,
    item_vectors: Queries,
    tmp_path_factory: pytest.TempPathFactory,
) -> AnnNode:
    """A node whose bundle has another index over the same vectors."""
    return node_with(build_index(kind, item_vectors), loaded, tmp_path_factory.mktemp("index"))


def node_with(index: Any, loaded: LoadedBundle, folder: Path) -> AnnNode:
    faiss.write_index(index, str(folder / INDEX))
    return AnnNode(LoadedBundle(folder, loaded.manifest), ServingSettings())


def queries(seed: int, count: int, dim: int) -> Queries:
    drawn = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def request(
    loaded: LoadedBundle,
    query_BQE: Sequence[Queries],
    budget: Sequence[int],
    seen: Sequence[Sequence[int]] | None = None,
    excluded: Sequence[Sequence[int]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Users who may retrieve `budget` items each, split evenly over their query embeddings."""
    users = len(query_BQE)
    share_BQ = [
        split_budget(total, np.ones(len(query))) for total, query in zip(budget, query_BQE, strict=True)
    ]

    left_out = [
        left_out_to_bytes(0, np.array([*one, *other], np.int64))
        for one, other in zip(seen or [[]] * users, excluded or [[]] * users, strict=True)
    ]
    made = {
        "QUERY_EMBEDDINGS": np.stack(query_BQE),
        "QUERY_BUDGETS": np.stack(share_BQ),
        "QUERY_ORIGINS": np.tile(np.arange(len(query_BQE[0]), dtype=np.int32), (users, 1)),
    }
    return sealed(loaded.id, made, "QUERY_SEAL", SEALED_LEFT_OUT=left_out)


def search(node: AnnNode, arrays: dict[str, NDArray[Any]]) -> list[Candidates]:
    return node.run(node.parse(arrays))


def best_rows(query_E: Queries, vector_VE: Queries, count: int, left_out: Sequence[int] = ()) -> list[int]:
    """The `count` rows of largest inner product that are not left out."""
    score_V = vector_VE.astype(np.float64) @ query_E.astype(np.float64)
    score_V[list(left_out)] = -np.inf
    order = np.argsort(-score_V, kind="stable")
    return [int(row) for row in order[:count] if np.isfinite(score_V[row])]


@pytest.mark.parametrize("num_results", [1, 7, 50])
def test_candidates_are_the_items_of_largest_inner_product(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries, num_results: int
) -> None:
    query_UE = queries(num_results, 5, item_vectors.shape[1])
    found = search(node, request(loaded, query_UE[:, None], [2 * num_results] * 5))
    for query_E, candidates in zip(query_UE, found, strict=True):
        expected = best_rows(query_E, item_vectors, 2 * num_results)
        assert candidates.item_row_K.tolist() == expected
        assert candidates.origin_K.tolist() == [0] * len(expected)


def test_excluded_and_seen_items_are_skipped_and_the_next_best_take_their_places(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_1E = queries(3, 1, item_vectors.shape[1])
    best = best_rows(query_1E[0], item_vectors, 30)
    seen, excluded = best[0:20:2], best[1:9:2]
    (found,) = search(node, request(loaded, [query_1E], [20], [seen], [excluded]))
    assert not set(found.item_row_K.tolist()) & {*seen, *excluded}
    assert found.item_row_K.tolist() == best_rows(query_1E[0], item_vectors, 20, [*seen, *excluded])


def test_an_item_both_seen_and_excluded_is_skipped_once(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_1E = queries(4, 1, item_vectors.shape[1])
    both = best_rows(query_1E[0], item_vectors, 5)
    (found,) = search(node, request(loaded, [query_1E], [6], [both], [both]))
    assert found.item_row_K.tolist() == best_rows(query_1E[0], item_vectors, 6, both)


def test_users_of_one_request_are_answered_each_by_their_own_limits(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_UE = queries(6, 3, item_vectors.shape[1])
    excluded: list[list[int]] = [[], best_rows(query_UE[1], item_vectors, 9), [0, 1]]
    arrays = request(loaded, query_UE[:, None], [2, 8, 40], excluded=excluded)
    for row, (found, num_results) in enumerate(zip(search(node, arrays), [1, 4, 20], strict=True)):
        expected = best_rows(query_UE[row], item_vectors, 2 * num_results, excluded[row])
        assert found.item_row_K.tolist() == expected


def test_several_queries_share_the_budget_and_find_no_item_twice(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    base = queries(7, 3, item_vectors.shape[1])
    near = base[0] + 0.3 * base
    query_QE = near / np.linalg.norm(near, axis=1, keepdims=True)
    expected: list[tuple[int, int]] = []
    for query, budget in enumerate((14, 13, 13)):
        found_before = [item for item, _ in expected]
        best = best_rows(query_QE[query], item_vectors, budget, found_before)
        assert best != best_rows(query_QE[query], item_vectors, budget) or query == 0
        expected += [(item, query) for item in best]
    (found,) = search(node, request(loaded, [query_QE], [40]))
    assert list(zip(found.item_row_K.tolist(), found.origin_K.tolist(), strict=True)) == expected


def test_three_equal_queries_find_what_one_does(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_1E = queries(8, 1, item_vectors.shape[1])
    excluded = [best_rows(query_1E[0], item_vectors, 3)]
    (once,) = search(node, request(loaded, [query_1E], [20], excluded=excluded))
    thrice = request(loaded, [np.repeat(query_1E, 3, axis=0)], [20], excluded=excluded)
    (found,) = search(node, thrice)
    assert found.item_row_K.tolist() == once.item_row_K.tolist()
    assert found.origin_K.tolist() == [0] * 7 + [1] * 7 + [2] * 6


@pytest.mark.parametrize("count", [1, 3])
def test_everything_excluded_finds_nothing(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries, count: int
) -> None:
    query_QE = queries(9, count, item_vectors.shape[1])
    (found,) = search(node, request(loaded, [query_QE], [20], excluded=[list(range(ITEMS))]))
    assert found.item_row_K.shape == (0,)
    assert found.origin_K.shape == (0,)


def test_fewer_candidates_than_asked_for_are_all_that_is_left(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_1E = queries(10, 1, item_vectors.shape[1])
    left = [5, 17, 230, 399]
    seen = [row for row in range(ITEMS) if row not in left]
    (found,) = search(node, request(loaded, [query_1E], [20], [seen]))
    assert found.item_row_K.tolist() == best_rows(query_1E[0], item_vectors, 20, seen)
    assert set(found.item_row_K.tolist()) == set(left)


def test_answers_of_different_lengths_are_padded_at_the_end(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_UE = queries(11, 2, item_vectors.shape[1])
    arrays = request(loaded, query_UE[:, None], [6, 2], excluded=[[], list(range(1, ITEMS))])
    packed = node.pack(search(node, arrays))
    assert packed["CANDIDATE_ITEMS"].tolist() == [best_rows(query_UE[0], item_vectors, 6), [0] + [-1] * 5]
    assert packed["CANDIDATE_ORIGINS"].tolist() == [[0] * 6, [0] * 6]


@pytest.mark.parametrize("excluded_count", [0, 3])
def test_rows_that_an_approximate_index_does_not_find_are_dropped(
    loaded: LoadedBundle, item_vectors: Queries, tmp_path: Path, excluded_count: int
) -> None:
    """Each item is in the list of its largest coordinate; a search for so many scans two lists."""
    dim = item_vectors.shape[1]
    axes = np.eye(dim, dtype=np.float32)
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(axes)
    index = faiss.IndexIVFFlat(quantizer, dim, dim, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    index.add(item_vectors)
    index.nprobe = 1
    largest_V = item_vectors.argmax(axis=1)
    size_E = np.bincount(largest_V, minlength=dim)
    first, second = next(
        (first, second)
        for first in range(dim)
        for second in range(first)
        if 5 <= size_E[[first, second]].sum() < 100
    )
    query_1E = (0.8 * axes[first] + 0.6 * axes[second])[None]
    probed = np.flatnonzero(np.isin(largest_V, [first, second])).tolist()
    excluded = probed[:excluded_count]
    left_out = [*excluded, *set(range(ITEMS)).difference(probed)]
    expected = best_rows(query_1E[0], item_vectors, MAX_CANDIDATES, left_out)
    assert sorted(expected) == probed[excluded_count:]
    approximate = node_with(index, loaded, tmp_path)
    arrays = request(loaded, [query_1E], [MAX_CANDIDATES], excluded=[excluded])
    (found,) = search(approximate, arrays)
    assert found.item_row_K.tolist() == expected


def test_every_kind_of_index_finds_items_of_largest_inner_product(
    node_of_kind: AnnNode, kind: IndexKind, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_UE = queries(15, 20, item_vectors.shape[1])
    found = search(node_of_kind, request(loaded, query_UE[:, None], [60] * 20))
    shares = []
    for query_E, candidates in zip(query_UE, found, strict=True):
        row_K = candidates.item_row_K
        assert row_K.dtype == np.int64
        assert len(set(row_K.tolist())) == 60
        shares.append(np.isin(best_rows(query_E, item_vectors, 60), row_K).mean())
    assert np.mean(shares) >= (0.95 if kind == "sq8" else 1.0)


def test_every_kind_of_index_leaves_out_seen_and_excluded_items_and_finds_none_twice(
    node_of_kind: AnnNode, kind: IndexKind, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_QE = queries(16, 3, item_vectors.shape[1])
    seen = best_rows(query_QE[0], item_vectors, 100)
    excluded = best_rows(query_QE[1], item_vectors, 50)
    (found,) = search(node_of_kind, request(loaded, [query_QE], [90], [seen], [excluded]))
    found_rows = found.item_row_K.tolist()
    assert len(set(found_rows)) == len(found_rows) == 90
    assert not {*found_rows} & {*seen, *excluded}
    expected: list[int] = []
    for query_E in query_QE:
        expected += best_rows(query_E, item_vectors, 30, [*seen, *excluded, *expected])
    assert np.isin(expected, found_rows).mean() >= (0.9 if kind == "sq8" else 1.0)


def test_every_kind_of_index_finds_what_little_is_left(
    node_of_kind: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_1E = queries(17, 1, item_vectors.shape[1])
    left = [5, 17, 230, 399]
    seen = [row for row in range(ITEMS) if row not in left]
    (found,) = search(node_of_kind, request(loaded, [query_1E], [20], [seen]))
    assert sorted(found.item_row_K.tolist()) == left


def test_each_query_takes_its_own_budget_and_padding_takes_nothing(
    node: AnnNode, loaded: LoadedBundle, item_vectors: Queries
) -> None:
    query_QE = queries(14, 3, item_vectors.shape[1])
    query_QE[2] = 0
    changed = {
        "QUERY_BUDGETS": np.array([[1, 5, 0]]),
        "QUERY_ORIGINS": np.array([[8, 3, 0]], np.int32),
    }
    arrays = resealed(loaded.id, request(loaded, [query_QE], [3]), changed)
    (found,) = search(node, arrays)
    first = best_rows(query_QE[0], item_vectors, 1)
    assert found.item_row_K.tolist() == first + best_rows(query_QE[1], item_vectors, 5, first)
    assert found.origin_K.tolist() == [8] + [3] * 5
