"""Items that are added, updated and removed: the store, a bundle's rows, vectors, search and the node."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.executors.item_embedder import BundleEmbedder
from ensemble.index.beside import Beside, Found
from ensemble.index.item_search import ItemSearch
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import InvalidInputError
from ensemble.nodes.update_items import UpdateItemsNode
from ensemble.settings import ServingSettings
from ensemble.stores.catalogue_store import CatalogueStore, Item
from ensemble.stores.catalogue_writer import CatalogueFullError, CatalogueWriter
from ensemble.stores.history_store import StoreError
from ensemble.stores.served_items import ServedItems
from export.item_index import build_index
from tests.support.described import COLD_FROM, CONTENT, FIRST_ITEM, ITEMS, Described, describe_bundle
from unipinrec.bundle import INDEX_KINDS, IndexKind

NEW = 5_000
"""An id that no bundle has."""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Described:
    return describe_bundle(tmp_path_factory.mktemp("described"))


@pytest.fixture(scope="module")
def loaded(described: Described) -> LoadedBundle:
    return LoadedBundle.open(described.folder)


@pytest.fixture(scope="module")
def embedder(loaded: LoadedBundle) -> BundleEmbedder:
    return BundleEmbedder(loaded)


@pytest.fixture
def store(tmp_path: Path) -> CatalogueStore:
    return CatalogueStore.open(tmp_path / "catalogue", writable=True)


@pytest.fixture
def items(loaded: LoadedBundle, store: CatalogueStore) -> ServedItems:
    return ServedItems(loaded, store)


@pytest.fixture
def writer(
    loaded: LoadedBundle, store: CatalogueStore, items: ServedItems, embedder: BundleEmbedder
) -> Iterator[CatalogueWriter]:
    made = CatalogueWriter(loaded, store, items, embedder, most=50)
    yield made
    made.close()


def item(number: int) -> Item:
    return Item((7, 14), tuple(np.float32(np.arange(CONTENT) + number).tolist()), f"new {number}")


def outcomes(writer: CatalogueWriter, *changes: tuple[int, Item | None]) -> list[str]:
    return [updated.outcome for updated in writer.update(changes)]


def test_vectors_are_those_that_an_export_makes(
    described: Described, loaded: LoadedBundle, embedder: BundleEmbedder
) -> None:
    row_V = np.arange(ITEMS)
    all_items = [described.item(row) for row in range(ITEMS)]
    vector_VE, second_VS = embedder(all_items, row_V)
    assert np.abs(vector_VE - loaded.item_vectors()).max() < 1e-5
    assert second_VS.shape == (ITEMS, 0)
    unknown_VE, _ = embedder(all_items, np.full(ITEMS, -1))
    difference_V = np.abs(unknown_VE - loaded.item_vectors()).max(axis=1)
    # Without a row, an item has no id; those that training never saw had none.
    assert difference_V[COLD_FROM:].max() < 1e-5
    assert difference_V[:COLD_FROM].min() > 1e-4


def test_attributes_that_the_bundle_does_not_know_count_for_nothing(embedder: BundleEmbedder) -> None:
    known, more = item(1), item(1)._replace(attributes=(7, 8, 14, 2**31))
    assert embedder.unknown_attributes(more) == 2
    vector_2E, _ = embedder([known, more], np.array([-1, -1]))
    assert (vector_2E[0] == vector_2E[1]).all()


def test_what_becomes_of_changes(writer: CatalogueWriter) -> None:
    assert outcomes(writer, (NEW, item(1)), (FIRST_ITEM, item(2))) == ["added", "updated"]
    assert outcomes(writer, (NEW, item(1)), (NEW, item(3))) == ["unchanged", "updated"]
    assert outcomes(writer, (NEW, None), (NEW, None), (NEW + 1, None)) == ["removed", "absent", "absent"]
    assert outcomes(writer, (NEW, item(3)), (FIRST_ITEM, None)) == ["added", "removed"]


def test_a_row_stands_for_one_item_and_one_vector(
    writer: CatalogueWriter, items: ServedItems, loaded: LoadedBundle, embedder: BundleEmbedder
) -> None:
    ids = np.array([NEW, FIRST_ITEM, FIRST_ITEM + 3, NEW + 1])
    assert items.rows_of(ids).tolist() == [-1, 0, 1, -1]
    writer.update([(NEW, item(1)), (FIRST_ITEM, item(2))])
    first = items.refresh().rows_of(ids)
    assert first.tolist() == [ITEMS, ITEMS + 1, 1, -1]
    vector_NE = items.vectors_of(first[:3])
    assert np.abs(vector_NE[:2] - embedder([item(1), item(2)], np.array([-1, 0]))[0]).max() < 1e-6
    assert (vector_NE[2] == loaded.item_vectors()[1]).all()
    writer.update([(NEW, item(3)), (FIRST_ITEM, None)])
    assert items.refresh().rows_of(ids).tolist() == [ITEMS + 2, ITEMS + 1, 1, -1]
    assert (items.vectors_of(first[:3]) == vector_NE).all()
    assert items.ids_of(np.array([ITEMS, ITEMS + 1, ITEMS + 2, 1, 0])).tolist() == [
        *ids[:2],
        NEW,
        *ids[[2, 1]],
    ]
    assert items.in_bundle_rows(np.array([ITEMS, ITEMS + 1, 5])).tolist() == [-1, 0, 5]


def test_a_version_stays_as_it_was_but_for_what_is_removed(
    writer: CatalogueWriter, items: ServedItems
) -> None:
    def found(version: int) -> set[int]:
        """Rows that an answer may hold, of the bundle's first two and those beside it."""
        gone, living_O = items.gone(version).tolist(), items.beside(version)[1]
        return {row for row in (0, 1) if row not in gone} | {
            ITEMS + int(row) for row in living_O.nonzero()[0]
        }

    versions = [items.version]
    for change in ((NEW, item(1)), (NEW, item(2)), (FIRST_ITEM, item(3))):
        writer.update([change])
        versions.append(items.refresh().version)
    states = [{0, 1}, {0, 1, ITEMS}, {0, 1, ITEMS + 1}, {1, ITEMS + 1, ITEMS + 2}]
    assert [found(version) for version in versions] == states
    writer.update([(NEW, None), (FIRST_ITEM, None)])
    assert [found(version) for version in versions] == [{1}] * 4
    assert items.is_removed(np.array([0, 1, ITEMS, ITEMS + 1, ITEMS + 2])).tolist() == [
        True,
        False,
        *[True] * 3,
    ]
    writer.update([(NEW, item(1))])
    assert found(items.refresh().version) == {1, ITEMS + 3}
    assert found(versions[1]) == {1}


READER = """
import sys
from pathlib import Path
import numpy as np
from ensemble.loaded_bundle import LoadedBundle
from ensemble.stores.catalogue_store import CatalogueStore
from ensemble.stores.served_items import ServedItems

items = ServedItems(LoadedBundle.open(Path(sys.argv[1])), CatalogueStore.open(Path(sys.argv[2])))
for line in sys.stdin:
    print(*items.refresh().rows_of(np.array([int(line)])), flush=True)
"""


def test_other_processes_see_what_an_answered_change_has_made(
    writer: CatalogueWriter, store: CatalogueStore, described: Described
) -> None:
    command = [sys.executable, "-c", READER, str(described.folder), str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for number in range(20):
            writer.update([(NEW + number, item(number))])
            reader.stdin.write(f"{NEW + number}\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{ITEMS + number}\n"


def test_what_is_stored_is_there_when_it_is_opened_again(
    writer: CatalogueWriter, items: ServedItems, loaded: LoadedBundle, store: CatalogueStore
) -> None:
    writer.update([(NEW, item(1)), (FIRST_ITEM, item(2))])
    writer.update([(NEW, item(3)), (FIRST_ITEM, None), (NEW + 1, item(4))])
    again = ServedItems(loaded, store).refresh()
    ids, rows = np.array([NEW, FIRST_ITEM, NEW + 1]), np.arange(items.rows)
    assert again.rows_of(ids).tolist() == items.refresh().rows_of(ids).tolist()
    assert (again.vectors_of(rows) == items.vectors_of(rows)).all()
    assert (again.gone(again.version) == items.gone(items.version)).all()
    assert (again.beside(2)[1] == items.beside(2)[1]).all()


def test_what_cannot_be_read_yet_is_looked_for_again(
    writer: CatalogueWriter, items: ServedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB shows a transaction's number before others can read what it wrote."""
    monkeypatch.setattr(CatalogueStore, "transactions", property(lambda _: 1_000_000))
    items.refresh()
    writer.update([(NEW, item(1))])
    assert items.refresh().rows == ITEMS + 1


def test_looking_again_changes_nothing(writer: CatalogueWriter, items: ServedItems) -> None:
    writer.update([(NEW, item(1))])
    for _ in range(3):
        # Makes a transaction of no change.
        writer.update([(NEW, item(1))])
        writer.take_over()
        assert items.refresh().rows == ITEMS + 1


def test_a_failed_batch_changes_nothing(writer: CatalogueWriter, items: ServedItems) -> None:
    writer.update([(NEW, item(1))])
    with pytest.raises(CatalogueFullError, match=r"are 51; allowed: 0 to 50 .*serve a new bundle"):
        writer.update([(NEW + 1 + number, item(number)) for number in range(50)])
    assert items.refresh().rows == ITEMS + 1
    assert items.rows_of(np.array([NEW + 1])).tolist() == [-1]
    assert outcomes(writer, (NEW + 1, item(2)), (NEW, None)) == ["added", "removed"]


def test_another_bundle_takes_over_what_it_does_not_know(
    writer: CatalogueWriter, loaded: LoadedBundle, store: CatalogueStore, tmp_path: Path
) -> None:
    writer.update([(NEW, item(1)), (FIRST_ITEM, item(2)), (NEW + 1, item(3))])
    writer.update([(FIRST_ITEM + 3, None), (NEW + 1, None)])
    other = describe_bundle(tmp_path / "other", seed=4)
    bundle = LoadedBundle.open(other.folder)
    assert bundle.id != loaded.id
    seen, embedder = ServedItems(bundle, store), BundleEmbedder(bundle)
    second = CatalogueWriter(bundle, store, seen, embedder, most=50)
    # Its own FIRST_ITEM was made after the change; what is removed stays so.
    assert seen.rows_of(np.array([NEW, FIRST_ITEM, NEW + 1])).tolist() == [ITEMS, 0, -1]
    assert seen.gone(seen.version).tolist() == [1]
    assert np.abs(seen.vectors_of(np.array([ITEMS])) - embedder([item(1)], np.array([-1]))[0]).max() < 1e-6
    # While both are served, each waits until the other one knows.
    second.close()
    writer.update([(NEW, None)])
    second = CatalogueWriter(bundle, store, seen, embedder, most=50)
    assert seen.is_removed(np.array([ITEMS])).all()
    with pytest.raises(StoreError, match=rf"bundle {bundle.id} has not taken over"):
        writer.update([(NEW, item(1))])
    second.take_over()
    assert seen.refresh().rows_of(np.array([NEW])).tolist() == [ITEMS + 1]
    second.close()


@pytest.mark.usefixtures("writer")
def test_one_process_writes_for_a_bundle(
    loaded: LoadedBundle,
    store: CatalogueStore,
    embedder: BundleEmbedder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensemble.stores.catalogue_writer.WAIT_S", 0.1)
    with pytest.raises(StoreError, match="another process writes for bundle"):
        CatalogueWriter(loaded, store, ServedItems(loaded, store), embedder, most=50)


@pytest.mark.parametrize("kind", INDEX_KINDS)
@pytest.mark.parametrize("twins", [1, 3])
def test_gone_items_are_never_found_and_hardly_slow_the_search(kind: IndexKind, twins: int) -> None:
    draw = np.random.default_rng(7)
    vector_VE = np.repeat(unit(draw.normal(size=(3_000 // twins, 16))), twins, axis=0)
    search = ItemSearch(build_index(kind, vector_VE))
    query_QE = unit(draw.normal(size=(20, 16)))
    gone = np.sort(draw.permutation(len(vector_VE))[:1_000])
    # All that is near the first query is gone too.
    gone = np.union1d(gone, np.argsort(-vector_VE @ query_QE[0])[:400])
    left_out = np.argsort(-vector_VE @ query_QE[1])[:30]
    found_QK = search.nearest(query_QE, 100, left_out, gone)
    assert not np.isin(found_QK, [*gone, *left_out, -1]).any()
    score_QV = query_QE @ vector_VE.T
    score_QV[:, [*gone, *left_out]] = -np.inf
    worst_Q = np.sort(score_QV, axis=1)[:, -100]
    hits_QK = np.take_along_axis(score_QV, found_QK, axis=1) >= worst_Q[:, None] - 1e-5
    assert hits_QK.mean() > (0.9 if kind == "sq8" else 0.98)
    if isinstance(search.index, faiss.IndexHNSW) and twins == 1:
        faiss.cvar.hnsw_stats.reset()
        search.nearest(query_QE[2:], 100, left_out)
        without = faiss.cvar.hnsw_stats.ndis
        faiss.cvar.hnsw_stats.reset()
        search.nearest(query_QE[2:], 100, left_out, gone[::2])
        assert faiss.cvar.hnsw_stats.ndis < 2 * without


def test_what_is_beside_an_index_is_merged_in_the_order_of_scores() -> None:
    draw = np.random.default_rng(8)
    base_VE, beside_OE = unit(draw.normal(size=(500, 8))), unit(draw.normal(size=(300, 8)))
    query_QE = unit(draw.normal(size=(6, 8)))
    living_O = draw.random(300) < 0.7
    left_out = np.array([3, 5, 290])
    found_QK = np.argsort(-query_QE @ base_VE.T, axis=1)[:, :40]
    found_QK[0, 30:] = -1
    merged_QK = Beside(beside_OE, living_O, 500).merged(
        query_QE, 40, Found(found_QK, base_VE[np.maximum(found_QK, 0)]), left_out
    )
    allowed_O = living_O.copy()
    allowed_O[left_out] = False
    for query, query_E in enumerate(query_QE):
        score = np.concatenate([base_VE, beside_OE]) @ query_E
        score[500:][~allowed_O] = -np.inf
        if query == 0:
            score[np.setdiff1d(np.arange(500), found_QK[0])] = -np.inf
        assert merged_QK[query].tolist() == np.argsort(-score)[:40].tolist()


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
        np.float32
    )
    return scaled


@pytest.fixture
def node(loaded: LoadedBundle, tmp_path: Path) -> Iterator[UpdateItemsNode]:
    settings = ServingSettings(catalogue=tmp_path / "of node", update_items=True, max_added_items=20)
    made = UpdateItemsNode(loaded, settings)
    yield made
    made.close()


def request(ids: list[int], operation: bytes = b"put", **tensors: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        "ITEM_ID": np.array(ids, np.int64)[:, None],
        "OPERATION": np.full((len(ids), 1), operation, np.object_),
        **tensors,
    }


def test_the_node_answers_what_became_of_each_item(node: UpdateItemsNode) -> None:
    def told(arrays: dict[str, NDArray[Any]]) -> list[tuple[bytes, int, int]]:
        packed = node.pack(node.run(node.parse(arrays)))
        columns = (packed[name][:, 0].tolist() for name in ("OUTCOME", "VERSION", "UNKNOWN_ATTRIBUTES"))
        return list(zip(*columns, strict=True))

    described = request(
        [NEW, NEW + 1],
        ATTRIBUTES=np.array([[14, 7, 5], [7, -1, -1]]),
        CONTENT=np.ones((2, CONTENT), np.float32),
        TITLE=np.array([["Zwölf".encode()], [b""]], np.object_),
    )
    assert told(described) == [(b"added", 1, 1), (b"added", 2, 0)]
    assert told(described) == [(b"unchanged", 1, 1), (b"unchanged", 2, 0)]
    assert told(request([NEW], b"remove")) == [(b"removed", 3, 0)]
    assert told(request([0], b"check")) == [(b"unchanged", 0, 0)]
    assert node.metrics.get_sample_value("unipinrec_updated_items_total", {"outcome": "added"}) == 2
    assert node.metrics.get_sample_value("unipinrec_added_item_rows", {"kind": "taken"}) == 2
    with pytest.raises(InvalidInputError, match=r"^rows of added and updated items are 21; allowed: 0 to 20"):
        node.run(node.parse(request(list(range(NEW + 2, NEW + 21)))))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (request([-1]), r"^ITEM_ID is -1 at user 0; allowed: 0 to "),
        (request([1, 2], b"drop"), r"^OPERATION is b'drop' at user 0; allowed: put, remove, check$"),
        (
            request([1], ATTRIBUTES=np.array([[2**31 + 1]])),
            r"^ATTRIBUTES is 2147483649 at user 0, attribute 0",
        ),
        (request([1], ATTRIBUTES=np.array([[-1, 3]])), r"^ATTRIBUTES is -1 before another item"),
        (
            request([1], ATTRIBUTES=np.zeros((1, 257), np.int64)),
            r"^ATTRIBUTES has 257 values; allowed: 0 to 256$",
        ),
        (request([1], CONTENT=np.zeros((1, 3), np.float32)), r"^CONTENT has 3 values; allowed: 12 to 12$"),
        (request([1], CONTENT=np.full((1, 12), np.nan, np.float32)), r"^CONTENT is nan at user 0, number 0"),
        (
            request([1], CONTENT=np.full((1, 12), 2e6, np.float32)),
            r"^CONTENT is 2000000\.0 at user 0, number 0",
        ),
        (
            request([1], TITLE=np.array([[b"\xff"]], np.object_)),
            r"^TITLE is b'\\xff' at user 0; allowed: UTF-8$",
        ),
        (
            request([1], TITLE=np.array([[b"x" * 1001]], np.object_)),
            r"^TITLE has 1001 bytes; allowed: 0 to 1000$",
        ),
    ],
)
def test_the_node_refuses_what_no_dataset_holds(
    node: UpdateItemsNode, tensors: dict[str, NDArray[Any]], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        node.parse(tensors)


def test_a_node_that_is_off_takes_over_and_answers_checks_alone(loaded: LoadedBundle, tmp_path: Path) -> None:
    CatalogueStore.open(tmp_path / "catalogue", writable=True)
    node = UpdateItemsNode(loaded, ServingSettings(catalogue=tmp_path / "catalogue"))
    node.run(node.parse(request([0], b"check")))
    with pytest.raises(
        InvalidInputError, match=r"^update_items is off; allowed: with UNIPINREC_UPDATE_ITEMS"
    ):
        node.parse(request([NEW]))
    node.close()
