"""The catalogue of a bundle: ids, vectors, titles and the index over them.

Shapes: V items, E item width, X items at a time, L lists.
"""

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from safetensors import safe_open

from ensemble.arrays import Floats, Int64s
from ensemble.bundle_check.refusal import Report, refuse, require_equal
from unipinrec.bundle import CATALOGUE, INDEX, ITEMS, IndexKind, Manifest

IDS, VECTORS, ATTRIBUTES = "item_id_V", "vector_VE", "attribute_id_A"
AT_ONCE = 65_536
"""Items whose vectors are looked at together."""

LENGTH_TOLERANCE = 1e-3
ROUNDED_TOLERANCE = 0.05
"""Of a coordinate that an index holds in 8 bits; the range of a unit vector's is at most 2."""
MOST_EFFORT = 1 << 16
"""Nodes or lists that a search may be told to look at."""

CLASSES: dict[IndexKind, type[Any]] = {
    "flat": faiss.IndexFlat,
    "hnsw": faiss.IndexHNSWFlat,
    "ivf_hnsw": faiss.IndexIVFFlat,
    "sq8": faiss.IndexScalarQuantizer,
}


def check_headers(folder: Path, manifest: Manifest, report: Report) -> None:
    """Check shapes and types of ids and vectors. Raises `BundleError`."""
    report(ITEMS)
    config = manifest.model
    expected = {IDS: ([config.num_items], "I64"), VECTORS: ([config.num_items, config.item_dim], "F32")}
    with safe_open(folder / ITEMS, framework="np") as items:
        require_equal(ITEMS, "names of tensors", sorted(items.keys()), sorted([*expected, ATTRIBUTES]))
        require_equal(ITEMS, f"type of {ATTRIBUTES}", items.get_slice(ATTRIBUTES).get_dtype(), "I64")
        axes = len(items.get_slice(ATTRIBUTES).get_shape())
        require_equal(ITEMS, f"number of axes of {ATTRIBUTES}", axes, 1)
        for name, (shape, kind) in expected.items():
            require_equal(ITEMS, f"shape of {name}", items.get_slice(name).get_shape(), shape)
            require_equal(ITEMS, f"type of {name}", items.get_slice(name).get_dtype(), kind)


def check_content(folder: Path, manifest: Manifest, report: Report) -> None:
    """Check the values, the titles and the index. Raises `BundleError`."""
    report(ITEMS)
    with safe_open(folder / ITEMS, framework="np") as items:
        item_id_V: Int64s = items.get_tensor(IDS)
        vector_VE: Floats = items.get_tensor(VECTORS)
        attribute_id_A: Int64s = items.get_tensor(ATTRIBUTES)
    _check_ids(item_id_V)
    _check_vectors(vector_VE)
    if (np.diff(attribute_id_A) <= 0).any() or (attribute_id_A < 0).any():
        refuse(ITEMS, ATTRIBUTES, "not ascending", "ids from 0 on, each larger than the one before")
    report(CATALOGUE)
    _check_catalogue(folder, manifest, item_id_V)
    report(INDEX)
    _check_index(folder, manifest, vector_VE)


def _check_ids(item_id_V: Int64s) -> None:
    wrong_V = np.flatnonzero(item_id_V <= np.concatenate([[-1], item_id_V[:-1]]))
    if len(wrong_V):
        row = int(wrong_V[0])
        refuse(ITEMS, f"{IDS} of row {row}", item_id_V[row], "ids from 0 on, each larger than the one before")


def _check_vectors(vector_VE: Floats) -> None:
    for start in range(0, len(vector_VE), AT_ONCE):
        length_X = np.linalg.norm(vector_VE[start : start + AT_ONCE], axis=1)
        wrong_X = np.flatnonzero(~(np.abs(length_X - 1) <= LENGTH_TOLERANCE))
        if len(wrong_X):
            row = int(wrong_X[0])
            refuse(ITEMS, f"length of {VECTORS} of row {start + row}", length_X[row], "1, of finite numbers")


def _check_catalogue(folder: Path, manifest: Manifest, item_id_V: Int64s) -> None:
    content = json.loads((folder / CATALOGUE).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        refuse(CATALOGUE, "its content", f"a {type(content).__name__}", "an object of actions and titles")
    require_equal(CATALOGUE, "its keys", sorted(content), ["actions", "titles"])
    require_equal(CATALOGUE, "actions", content["actions"], list(manifest.actions))
    titles = content["titles"]
    if not isinstance(titles, dict) or list(titles) != list(map(str, item_id_V.tolist())):
        refuse(CATALOGUE, "titles", "of other items", f"one for each of the {len(item_id_V)} ids of {ITEMS}")
    untitled = next((item for item, title in titles.items() if not isinstance(title, str)), None)
    if untitled is not None:
        refuse(CATALOGUE, f"title of {untitled}", titles[untitled], "a text")


def _check_index(folder: Path, manifest: Manifest, vector_VE: Floats) -> None:
    faiss.omp_set_num_threads(1)
    # Which refuses graphs with links that lead nowhere.
    index = faiss.read_index(str(folder / INDEX))
    kind = next((kind for kind, made in CLASSES.items() if isinstance(index, made)), type(index).__name__)
    if kind != manifest.index:
        refuse(INDEX, "its kind", kind, f"{manifest.index}, as the manifest says")
    require_equal(INDEX, "its number of items", index.ntotal, len(vector_VE))
    require_equal(INDEX, "its width", index.d, vector_VE.shape[1])
    require_equal(INDEX, "its metric", index.metric_type, faiss.METRIC_INNER_PRODUCT)
    require_equal(INDEX, "whether it is trained", index.is_trained, True)
    if kind == "ivf_hnsw":
        _check_lists(index, vector_VE)
        return
    if kind == "hnsw":
        _check_effort("efSearch", index.hnsw.efSearch)
    tolerance = ROUNDED_TOLERANCE if kind == "sq8" else 0.0
    for start in range(0, len(vector_VE), AT_ONCE):
        wanted_XE = vector_VE[start : start + AT_ONCE]
        _check_same(index.reconstruct_n(start, len(wanted_XE)), wanted_XE, tolerance)


def _check_lists(index: Any, vector_VE: Floats) -> None:
    """An inverted file has each item once, in one of its lists, which a graph finds."""
    _check_effort("nprobe", index.nprobe)
    quantiser = faiss.downcast_index(index.quantizer)
    if not isinstance(quantiser, faiss.IndexHNSWFlat):
        refuse(INDEX, "kind of its quantizer", type(quantiser).__name__, "IndexHNSWFlat")
    require_equal(INDEX, "number of its centroids", quantiser.ntotal, index.nlist)
    require_equal(INDEX, "width of its quantizer", quantiser.d, index.d)
    lists, seen_V = index.invlists, np.zeros(len(vector_VE), np.int64)
    require_equal(INDEX, "bytes of a vector", lists.code_size, vector_VE.strides[0])
    for number in range(index.nlist):
        size = lists.list_size(number)
        if not size:
            continue
        row_X = faiss.rev_swig_ptr(lists.get_ids(number), size)
        wrong_X = np.flatnonzero((row_X < 0) | (row_X >= len(vector_VE)))
        if len(wrong_X):
            refuse(INDEX, f"item of list {number}", row_X[wrong_X[0]], f"0 to {len(vector_VE) - 1}")
        code = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
        _check_same(code.view(np.float32).reshape(size, -1), vector_VE[row_X], 0.0)
        np.add.at(seen_V, row_X, 1)
    if (seen_V != 1).any():
        row = int((seen_V != 1).argmax())
        refuse(INDEX, f"lists with item {row}", int(seen_V[row]), 1)


def _check_effort(what: str, value: int) -> None:
    if not 1 <= value <= MOST_EFFORT:
        refuse(INDEX, what, value, f"1 to {MOST_EFFORT}")


def _check_same(found_XE: Floats, wanted_XE: Floats, tolerance: float) -> None:
    differs_XE = ~(np.abs(found_XE - wanted_XE) <= tolerance)
    if differs_XE.any():
        row, column = (int(axis[0]) for axis in np.nonzero(differs_XE))
        refuse(
            INDEX, "coordinate of a vector", found_XE[row, column], f"{wanted_XE[row, column]}, as in {ITEMS}"
        )
