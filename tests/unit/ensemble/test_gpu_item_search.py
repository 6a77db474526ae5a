"""What the GPU search asks of FAISS, with CPU indexes in the place of a GPU's; no GPU is tested here."""

from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.synthetic_vectors import draw_clustered
from ensemble.gpu_presence import NoGpuError
from ensemble.index.cuda.item_search import move_to_gpu, require_gpu, search_on_gpu, with_flat_centroids
from ensemble.index.item_search import ItemSearch
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode
from ensemble.nodes.sealed_history import left_out_to_bytes
from ensemble.settings import ServingSettings
from export.item_index import build_index
from tests.conftest import Exported
from tests.support import gpu_stand_in
from tests.support.gpu_stand_in import brute_force
from tests.support.seals import sealed
from unipinrec.bundle import INDEX_KINDS, IndexKind

ITEMS, QUERIES, WIDTH = 3_000, 5, 16
NOTHING = np.empty(0, np.int64)

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def vectors() -> tuple[Floats, Floats]:
    return draw_clustered(ITEMS, QUERIES, WIDTH, seed=6)


@pytest.fixture(scope="module")
def indexes(vectors: tuple[Floats, Floats]) -> dict[IndexKind, Any]:
    return {kind: build_index(kind, vectors[0]) for kind in INDEX_KINDS}


def test_without_a_build_for_gpu_one_line_says_what_is_needed() -> None:
    with pytest.raises(NoGpuError) as refused:
        require_gpu("UNIPINREC_ANN_DEVICE")
    assert str(refused.value) == (
        f"UNIPINREC_ANN_DEVICE is cuda; FAISS {faiss.__version__} here is built for CPU. Allowed: cpu, or "
        "cuda with faiss-gpu or faiss-gpu-cuvs installed in place of faiss-cpu"
    )


def test_a_build_for_gpu_that_finds_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.install(monkeypatch)
    require_gpu("device")
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(NoGpuError, match=r"^device is cuda; FAISS finds no GPU\. Allowed: cpu, or cuda on"):
        require_gpu("device")


def test_a_node_that_is_to_search_on_a_gpu_does_not_start_without_one(exported: Exported) -> None:
    loaded = LoadedBundle.open(exported.bundle)
    with pytest.raises(NoGpuError, match=r"^UNIPINREC_ANN_DEVICE is cuda; FAISS"):
        AnnNode(loaded, ServingSettings(ann_device="cuda"))


def test_hnsw_is_refused_where_faiss_has_no_cagra(
    indexes: dict[IndexKind, Any], vectors: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_stand_in.install(monkeypatch, cuvs=False)
    with pytest.raises(NoGpuError, match=r"^index is hnsw, .* Allowed: flat, ivf_hnsw, sq8, or hnsw with"):
        search_on_gpu(ItemSearch(indexes["hnsw"]), vectors[0])


@pytest.mark.parametrize(("kind", "becomes"), [("hnsw", "itopk_size"), ("ivf_hnsw", "nprobe"), ("sq8", "")])
def test_each_kind_becomes_the_gpus_own(
    kind: IndexKind,
    becomes: str,
    indexes: dict[IndexKind, Any],
    vectors: tuple[Floats, Floats],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu_stand_in.install(monkeypatch)
    assert move_to_gpu(indexes[kind], vectors[0]).parameter == becomes


def test_a_small_hnsw_index_becomes_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.install(monkeypatch, cuvs=False)
    vector_VE, query_QE = draw_clustered(1_023, QUERIES, WIDTH, seed=7)
    search = search_on_gpu(ItemSearch(build_index("hnsw", vector_VE)), vector_VE)
    assert search.nearest(query_QE, 30, NOTHING).tolist() == brute_force(vector_VE, query_QE, 30, [])


@pytest.mark.parametrize(
    ("kind", "left_out"), [("flat", 1_948), ("sq8", 0), ("sq8", 1_948), ("hnsw", 0), ("hnsw", 924)]
)
def test_up_to_its_limit_the_gpu_answers(
    kind: IndexKind,
    left_out: int,
    indexes: dict[IndexKind, Any],
    vectors: tuple[Floats, Floats],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stand-ins compare every item, also where the bundle's own index is coarse or approximate."""
    gpu_stand_in.install(monkeypatch)
    rows = np.random.default_rng(8).choice(ITEMS, left_out, replace=False)
    found_QK = search_on_gpu(ItemSearch(indexes[kind]), vectors[0]).nearest(vectors[1], 100, rows)
    assert found_QK.tolist() == brute_force(*vectors, 100, rows.tolist())


@pytest.mark.parametrize(
    ("kind", "left_out"), [("flat", 1_949), ("sq8", 1_949), ("ivf_hnsw", 1_949), ("hnsw", 925)]
)
def test_beyond_its_limit_the_bundles_own_index_answers(
    kind: IndexKind,
    left_out: int,
    indexes: dict[IndexKind, Any],
    vectors: tuple[Floats, Floats],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu_stand_in.install(monkeypatch)
    rows = np.random.default_rng(8).choice(ITEMS, left_out, replace=False)
    on_cpu = ItemSearch(indexes[kind])
    found_QK = search_on_gpu(on_cpu, vectors[0]).nearest(vectors[1], 100, rows)
    assert found_QK.tolist() == on_cpu.nearest(vectors[1], 100, rows).tolist()


def test_flat_centroids_over_the_same_lists_find_what_brute_force_finds(
    indexes: dict[IndexKind, Any], vectors: tuple[Floats, Floats]
) -> None:
    index = with_flat_centroids(indexes["ivf_hnsw"])
    assert (index.ntotal, index.nlist, index.nprobe) == (ITEMS, indexes["ivf_hnsw"].nlist, 64)
    index.nprobe = index.nlist
    assert index.search(vectors[1], 50)[1].tolist() == brute_force(*vectors, 50, [])


def test_a_search_probes_more_lists_the_further_it_reaches(
    indexes: dict[IndexKind, Any], vectors: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_stand_in.install(monkeypatch)
    on_gpu = move_to_gpu(indexes["ivf_hnsw"], vectors[0])
    for count in (1, 100, 101, 250, 2_048):
        on_gpu.fetch(vectors[1], count)
    assert on_gpu.index.nlist == 216
    assert on_gpu.index.asked == [64, 64, 65, 160, 216]


def test_cagra_keeps_more_nodes_in_sight_the_further_it_reaches(
    indexes: dict[IndexKind, Any], vectors: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_stand_in.install(monkeypatch)
    on_gpu = move_to_gpu(indexes["hnsw"], vectors[0])
    for count in (1, 100, 101, 250, 1_024):
        on_gpu.fetch(vectors[1], count)
    assert on_gpu.index.asked == [512, 512, 544, 1_280, 5_248]


def test_a_node_on_the_gpu_answers_as_one_on_the_cpu(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_stand_in.install(monkeypatch)
    loaded = LoadedBundle.open(exported.bundle)
    on_cpu, on_gpu = (AnnNode(loaded, ServingSettings(ann_device=device)) for device in ("cpu", "cuda"))
    query_1QE = (
        np.random.default_rng(9).normal(size=(1, 2, loaded.manifest.model.item_dim)).astype(np.float32)
    )
    made = {
        "QUERY_EMBEDDINGS": query_1QE,
        "QUERY_BUDGETS": np.array([[12, 8]]),
        "QUERY_ORIGINS": np.array([[0, 1]], np.int32),
    }
    left_out = left_out_to_bytes(0, np.array([0, 2, 5]))
    request = sealed(loaded.id, made, "QUERY_SEAL", SEALED_LEFT_OUT=[left_out])
    (expected,), (found,) = (node.run(node.parse(request)) for node in (on_cpu, on_gpu))
    assert len(found.item_row_K) == 20
    assert found.item_row_K.tolist() == expected.item_row_K.tolist()
    assert found.origin_K.tolist() == expected.origin_K.tolist()
