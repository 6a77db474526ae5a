"""Bundles with one thing wrong each, their hashes left as they were or made right again."""

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from export.bundle_writer import write_bundle
from tests.conftest import SERVED, Exported
from tests.support.policies import with_policy
from tests.support.second_rankers import random_ranker
from unipinrec.bundle import INDEX_KINDS, BundleError, content_id, describe_file, read_manifest
from unipinrec.training.checkpoint import latest_checkpoint

Corrupt = Callable[[Path], object]
"""Changes a copy of a bundle."""
Fields = dict[str, Any]
Arrays = dict[str, torch.Tensor]

MANIFEST, INDEX, ITEMS, CATALOGUE = "manifest.json", "items.faiss", "items.safetensors", "catalogue.json"
RANKER = "transact-v2"
GRAPHS = tuple(f"unified/{name}.pt" for name in ("encoder", "retrieval_head", "ranking_head"))
WEIGHTS, RANKER_WEIGHTS = "unified/weights.safetensors", f"{RANKER}/weights.safetensors"
ONNX, CARD = "policy/policy.onnx", "policy/policy-card.json"
FILES = (INDEX, ITEMS, CATALOGUE, *GRAPHS, WEIGHTS, RANKER_WEIGHTS, ONNX, CARD)
ALL, HNSW, IVF, SQ8 = "all", "hnsw", "ivf_hnsw", "sq8"
HUGE = 200 << 30


@dataclass(frozen=True)
class Case:
    """One way in which a bundle is wrong."""

    name: str
    file: str
    """Which the refusal names."""
    corrupt: Corrupt
    base: str = ALL
    rehashed: bool = True
    alone: bool = False
    """Whether it may end or hold up the process that checks it."""

    def make(self, bases: dict[str, Path], folder: Path) -> Path:
        """Return the corrupt bundle, made in `folder`."""
        bundle = Path(shutil.copytree(bases[self.base], folder / bases[self.base].name))
        self.corrupt(bundle)
        if self.rehashed:
            rehash(bundle)
        return bundle


def make_bases(exported: Exported, folder: Path) -> dict[str, Path]:
    """Return a bundle of every kind of index; the one with exact search has all kinds of models."""
    policy = with_policy(exported, folder / "policy")
    checkpoints = (exported.bundle.parents[1] / "checkpoints", folder / "policy" / "checkpoints")
    unified, other = (latest_checkpoint(checkpoint) for checkpoint in checkpoints)
    assert unified is not None
    assert other is not None
    ranker = random_ranker(RANKER, folder / "ranker", exported.dataset.info.sha256)
    card = folder / "card.json"
    card.write_text(policy.card.model_dump_json())
    full = {"beside": [other, ranker], "policy_card": card, "index": "flat"}
    bases = {ALL: write_bundle(unified, exported.dataset, folder / ALL, **full, **SERVED)}
    for kind in INDEX_KINDS[1:]:
        bases[kind] = write_bundle(unified, exported.dataset, folder / kind, index=kind, **SERVED)
    return bases


def rehash(bundle: Path) -> None:
    """Describe the files as they are, and name the bundle after it, as far as the manifest can be read."""
    try:
        fields = json.loads((bundle / MANIFEST).read_text())
        described = [("", fields["files"]), *((f"{m}/", e["files"]) for m, e in fields["models"].items())]
        for prefix, files in described:
            for name in files:
                path = bundle / prefix / name
                if path.is_file() and path.stat().st_size < HUGE:
                    files[name] = describe_file(path).model_dump()
                elif path.is_file():
                    files[name]["size"] = path.stat().st_size
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return
    (bundle / MANIFEST).write_text(json.dumps(fields))
    try:
        fields["bundle_id"] = content_id(read_manifest(bundle))
    except BundleError:
        return
    (bundle / MANIFEST).write_text(json.dumps(fields))


def cases(seed: int = 17) -> Iterator[Case]:
    """Yield every case, in the same order for the same seed."""
    yield from _damaged(np.random.default_rng(seed))
    yield from _manifests()
    yield from _sizes()
    yield from _items()
    yield from _indexes()
    yield from _models()


def _damaged(draw: np.random.Generator) -> Iterator[Case]:
    """What happens to files on disks and on the way, whose hashes are then wrong."""
    for file in FILES:
        damages: dict[str, Corrupt] = {
            "a bit flipped": partial(_flip, file=file, share=float(draw.random())),
            "cut": partial(_rewrite, file=file, change=lambda content: content[: len(content) // 2]),
            "longer": partial(_rewrite, file=file, change=lambda content: content + b"\0"),
            "empty": partial(_rewrite, file=file, change=lambda _: b""),
            "missing": partial(_remove, file=file),
            "a link": partial(_link, file=file),
        }
        for damage, corrupt in damages.items():
            yield Case(f"{file} {damage}", file, corrupt, rehashed=False)
    yield Case("manifest missing", MANIFEST, partial(_remove, file=MANIFEST), rehashed=False)
    yield Case("a file more", "notes.txt", lambda bundle: (bundle / "notes.txt").write_text("?"))
    yield Case("a folder more", "more", lambda bundle: (bundle / "more").mkdir())
    yield Case("a models folder elsewhere", "unified", _move_folder)
    for file in (INDEX, ITEMS, CATALOGUE, WEIGHTS, *GRAPHS[:1], CARD):
        yield Case(f"{file} of 200 GB, sparse", file, partial(_grow, file=file))


def _manifests() -> Iterator[Case]:
    texts = {
        "empty": b"",
        "no JSON": b"{",
        "no text": b"\xff\xfe\x00",
        "a list": b"[]",
        "nested": b'{"format_version": 6, "files": ' + b"[" * 200_000,
        "long": b" " * (5 << 20) + b"{}",
        "a long number": b'{"format_version": ' + b"9" * 100_000 + b"}",
        "no fields": b'{"format_version": 6}',
    }
    for name, content in texts.items():
        corrupt = partial(_rewrite, file=MANIFEST, change=lambda _, new=content: new)
        yield Case(f"manifest {name}", MANIFEST, corrupt)
    edits: dict[str, Callable[[Fields], object]] = {
        "format 5": lambda m: m.update(format_version=5),
        "format as text": lambda m: m.update(format_version="6"),
        "an unknown field": lambda m: m.update(more=1),
        "an index of no kind": lambda m: m.update(index="annoy"),
        "no time": lambda m: m.update(created="yesterday"),
        "models of none": lambda m: m.update(models={}),
        "no unified model": lambda m: m["models"].pop("unified"),
        "two second rankers": lambda m: m["models"].update(transact=m["models"][RANKER]),
        "a file less": lambda m: m["files"].pop(INDEX),
        "a graph less": lambda m: m["models"]["unified"]["files"].pop("encoder.pt"),
        "a file that is not there": lambda m: m["files"].update({"x.bin": {"sha256": "0" * 64, "size": 1}}),
        "actions none": lambda m: m.update(actions=[]),
        "actions twice": lambda m: m.update(actions=["click", "click", "hide"]),
        "actions less": lambda m: m.update(actions=["click", "save"]),
        "actions without a name": lambda m: m.update(actions=["click", "save", ""]),
        "surfaces more": lambda m: m.update(surfaces=["home", "search", "feed"]),
        "surfaces less": lambda m: m.update(surfaces=["home"]),
    }
    for field in ("dataset", "actions", "surfaces", "models", "defaults", "index", "files", "bundle_id"):
        edits[f"no {field}"] = lambda m, field=field: m.pop(field)
    for number, path in enumerate(("../items.faiss", "/etc/passwd", "a/b", "..", "", "a\0b")):
        edits[f"path {number} of a file"] = lambda m, path=path: m["models"]["unified"]["files"].update(
            {path: {"sha256": "0" * 64, "size": 1}}
        )
        edits[f"path {number} of a model"] = lambda m, path=path: m["models"].update(
            {path: m["models"]["unified"]}
        )
    for name, edit in edits.items():
        yield Case(f"manifest with {name}", MANIFEST, partial(_edit, edit=edit))
    unmended: dict[str, Callable[[Fields], object]] = {
        "other id": lambda m: m.update(bundle_id="synthetic-000000000000"),
        "a short hash": lambda m: m["files"][INDEX].update(sha256="0"),
        "a negative size": lambda m: m["files"][INDEX].update(size=-1),
        "other defaults": lambda m: m["defaults"].update(num_results=7),
    }
    for name, edit in unmended.items():
        yield Case(f"manifest with {name}", MANIFEST, partial(_edit, edit=edit), rehashed=False)
    other = partial(_edit, edit=lambda m: m["models"].update(other=m["models"]["unified"]))
    yield Case("a model that is not there", "other/embedder.pt", other)


def _sizes() -> Iterator[Case]:
    """Sizes and defaults other than those of the files, or beyond all bounds."""
    wrong: dict[str, tuple[object, ...]] = {
        "heads": (4, 3, 0),
        "layers": (1, 3, 10**9),
        "width": (32, 63, 10**9),
        "item_dim": (16, 10**9),
        "num_actions": (2, 33),
        "num_surfaces": (3, 10**12),
        "num_items": (1, 399, 401, 10**12),
        "head_hidden": (8, 10**9),
        "action_dim": (8,),
        "feedforward_ratio": (2, 10**9),
        "max_history": (1, 10**12),
        "max_candidates": (1, 10**9),
        "time_offsets_s": ([0, 60, 120], [0], [60, 0], []),
        "time_periods_s": ([86_400],),
        "window_block": (10**9,),
        "unheard_of": (1,),
    }
    for field, values in wrong.items():
        for value in values:
            edit = partial(_set, path=("models", "unified", "config", field), value=value)
            told = [file for file, sizes in TOLD_BY.items() if (field, value) in sizes]
            file = told[0] if told else MANIFEST
            yield Case(f"unified {field} {value}", file, partial(_edit, edit=edit))
    defaults: dict[str, tuple[object, ...]] = {
        "num_results": (0, 100_000, 10**9),
        "over_fetch": (0, 10**9),
        "utility_weights": ([-1.0, 0.5, 0.0], [1.0, 0.5], [], [1.0, float("inf"), 0.0], [1e31, 1.0, 1.0]),
        "outcome_weights": ([0.0], [0.0, float("nan"), 0.0]),
        "retrieval_steps": (0, 17),
        "merge_cosine": (0.0, 1.5),
    }
    for field, values in defaults.items():
        for value in values:
            edit = partial(_set, path=("defaults", field), value=value)
            yield Case(f"default {field} {value}", MANIFEST, partial(_edit, edit=edit))


TOLD_BY: dict[str, list[tuple[str, object]]] = {
    WEIGHTS: [
        ("layers", 1), ("layers", 3), ("width", 32), ("head_hidden", 8), ("action_dim", 8),
        ("feedforward_ratio", 2), ("time_offsets_s", [0, 60, 120]), ("time_offsets_s", [0]),
        ("time_periods_s", [86_400]),
    ],
    ITEMS: [("item_dim", 16), ("num_items", 1), ("num_items", 399), ("num_items", 401)],
    GRAPHS[0]: [("heads", 4)],
}  # fmt: skip
"""Sizes that only a file tells to be wrong."""


def _items() -> Iterator[Case]:
    changes: dict[str, Callable[[Arrays], object]] = {
        "ids the same": lambda a: a["item_id_V"].fill_(1000),
        "ids descending": lambda a: a.update(item_id_V=a["item_id_V"].flip(0).contiguous()),
        "two ids the same": lambda a: a["item_id_V"][7:8].copy_(a["item_id_V"][6:7]),
        "a negative id": lambda a: a["item_id_V"][0:1].fill_(-5),
        "ids that wrap": lambda a: a["item_id_V"][-1:].fill_(-(2**63)),
        "short ids": lambda a: a.update(item_id_V=a["item_id_V"].int()),
        "a vector NaN": lambda a: a["vector_VE"][3].fill_(float("nan")),
        "a vector infinite": lambda a: a["vector_VE"][399, 2:3].fill_(float("inf")),
        "a vector 0": lambda a: a["vector_VE"][5].fill_(0),
        "vectors twice as long": lambda a: a["vector_VE"].mul_(2),
        "half the vectors": lambda a: a.update(vector_VE=a["vector_VE"][:200].clone()),
        "half of each vector": lambda a: a.update(vector_VE=a["vector_VE"][:, :16].clone()),
        "an item more": lambda a: a.update({name: torch.cat([v, v[-1:]]) for name, v in a.items()}),
        "an attribute twice": lambda a: a.update(attribute_id_A=torch.tensor([3, 3])),
        "vectors of doubles": lambda a: a.update(vector_VE=a["vector_VE"].double()),
        "a tensor under another name": lambda a: a.update(vectors=a.pop("vector_VE")),
        "a tensor more": lambda a: a.update(more=torch.zeros(1)),
    }
    for name, change in changes.items():
        yield Case(f"items with {name}", ITEMS, partial(_retensor, file=ITEMS, change=change))
    yield Case("items of noise", ITEMS, partial(_noise, file=ITEMS))
    contents: dict[str, Callable[[Fields], object]] = {
        "no object": lambda c: [c],
        "no titles": lambda c: {"actions": c["actions"]},
        "a title less": lambda c: {**c, "titles": dict(list(c["titles"].items())[1:])},
        "titles of others": lambda c: {**c, "titles": {f"9{item}": t for item, t in c["titles"].items()}},
        "a title that is no text": lambda c: {**c, "titles": {**c["titles"], "1003": None}},
        "other actions": lambda c: {**c, "actions": ["buy"]},
    }
    for name, make in contents.items():
        change = partial(_rejson, make=make)
        yield Case(f"catalogue with {name}", CATALOGUE, partial(_rewrite, file=CATALOGUE, change=change))
    for name, text in {"no JSON": b"{", "no text": b"\xff", "nested": b"[" * 200_000}.items():
        corrupt = partial(_rewrite, file=CATALOGUE, change=lambda _, text=text: text)
        yield Case(f"catalogue {name}", CATALOGUE, corrupt)


def _indexes() -> Iterator[Case]:
    width = 32
    made: dict[str, Callable[[NDArray[np.float32]], Any]] = {
        "100 items less": lambda v: _filled(faiss.IndexFlatIP(width), v[:300]),
        "an item more": lambda v: _filled(faiss.IndexFlatIP(width), np.concatenate([v, v[:1]])),
        "no items": lambda _: faiss.IndexFlatIP(width),
        "half the width": lambda v: _filled(faiss.IndexFlatIP(16), np.ascontiguousarray(v[:, :16])),
        "distances": lambda v: _filled(faiss.IndexFlatL2(width), v),
        "items in another order": lambda v: _filled(faiss.IndexFlatIP(width), v[::-1].copy()),
        "a graph": lambda v: _filled(faiss.IndexHNSWFlat(width, 8, faiss.METRIC_INNER_PRODUCT), v),
        "ids of its own": lambda v: _filled(faiss.IndexIDMap(faiss.IndexFlatIP(width)), v, np.arange(400)),
        "random projections": lambda v: _filled(faiss.IndexLSH(width, 64), v),
    }
    for name, make in made.items():
        yield Case(f"index with {name}", INDEX, partial(_index_of, make=make))
    yield Case("index of another kind", INDEX, partial(_edit, edit=lambda m: m.update(index="hnsw")))
    yield Case("index of noise", INDEX, partial(_noise, file=INDEX))
    yield Case("index cut", INDEX, partial(_rewrite, file=INDEX, change=lambda c: c[:20_000]))
    changed: dict[str, tuple[str, Callable[[Any], object]]] = {
        "a link that leads out": (HNSW, lambda index: _poke(index.hnsw.neighbors, 5, 10**6)),
        "a link before the first": (HNSW, lambda index: _poke(index.hnsw.neighbors, 5, -7)),
        "a level of none": (HNSW, lambda index: _poke(index.hnsw.levels, 9, 100)),
        "an entry that is none": (HNSW, lambda index: setattr(index.hnsw, "entry_point", 400)),
        "a search without end": (HNSW, lambda index: setattr(index.hnsw, "efSearch", 10**9)),
        "no probes": (IVF, lambda index: setattr(index, "nprobe", 0)),
        "an item of none": (IVF, lambda index: _relabel(index, 10**9)),
        "an item twice": (IVF, lambda index: _relabel(index, None)),
    }
    for name, (base, change) in changed.items():
        yield Case(f"{base} with {name}", INDEX, partial(_reindex, change=change), base=base)
    yield Case("sq8 of other items", INDEX, partial(_index_of, make=_coarse), base=SQ8)


def _models() -> Iterator[Case]:
    for first, second in ((0, 1), (0, 2), (1, 2)):
        corrupt = partial(_swap, files=(GRAPHS[first], GRAPHS[second]))
        yield Case(f"{GRAPHS[first]} and {GRAPHS[second]} swapped", GRAPHS[first], corrupt)
    for file in (*GRAPHS, ONNX, CARD, WEIGHTS, RANKER_WEIGHTS):
        yield Case(f"{file} of noise", file, partial(_noise, file=file))
    graphs: dict[str, torch.nn.Module] = {"not a number": NotNumbers(), "of one input": OneInput()}
    for name, module in graphs.items():
        yield Case(f"a graph that is {name}", GRAPHS[1], partial(_script, module=module))
    for name, module in {"without end": Endless(), "of 100 GB": Greedy()}.items():
        yield Case(f"a graph {name}", GRAPHS[1], partial(_script, module=module), alone=True)
    yield Case("a graph that inflates", GRAPHS[1], _inflate)
    yield Case("weights other than the graphs'", GRAPHS[0], _retensored(WEIGHTS, _scaled))
    weights: dict[str, Callable[[Arrays], object]] = {
        "a tensor less": lambda a: a.pop(next(iter(a))),
        "a tensor more": lambda a: a.update(more=torch.zeros(1)),
        "a number that is none": lambda a: next(iter(a.values())).view(-1)[:1].fill_(float("nan")),
        "a shape of its own": lambda a: a.update({next(iter(a)): torch.zeros(3, 5)}),
        "halves": lambda a: a.update({next(iter(a)): next(iter(a.values())).half()}),
    }
    for file in (WEIGHTS, RANKER_WEIGHTS):
        for name, change in weights.items():
            yield Case(f"{file} with {name}", file, _retensored(file, change))
    for model, field, value in (
        ("policy", "num_items", 399),
        ("policy", "num_actions", 2),
        ("policy", "max_history", 10_000),
        (RANKER, "num_items", 399),
        (RANKER, "num_surfaces", 3),
        (RANKER, "unheard_of", 1),
    ):
        edit = partial(_set, path=("models", model, "config", field), value=value)
        yield Case(f"{model} {field} {value}", MANIFEST, partial(_edit, edit=edit))
    for field, value in (("item_dim", 16), ("search_dim", 16), ("encoder_layers", 1)):
        edit = partial(_set, path=("models", RANKER, "config", field), value=value)
        yield Case(f"{RANKER} {field} {value}", RANKER_WEIGHTS, partial(_edit, edit=edit))
    cards: dict[str, Callable[[Fields], object]] = {
        "alpha 2": lambda c: {**c, "chosen": {"default": 2}},
        "cohorts of others": lambda c: {**c, "chosen": None, "cohorts": ["rest"]},
        "other arms": lambda c: {**c, "arms": {**c["arms"], "production": [1.0, 1.0, 0.0]}},
        "no fingerprint": lambda c: {**c, "fingerprint": "?"},
    }
    for name, make in cards.items():
        corrupt = partial(_rewrite, file=CARD, change=partial(_rejson, make=make))
        yield Case(f"card with {name}", CARD, corrupt)
    yield Case("a policy that says its input", ONNX, _identity)


class NotNumbers(torch.nn.Module):
    def forward(
        self, hidden: torch.Tensor, time: torch.Tensor, place: torch.Tensor, outcome: torch.Tensor,
        offset: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        return hidden[:, :32] * float("nan") + (time + place + outcome + offset)[:, None]


class OneInput(torch.nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


class Endless(torch.nn.Module):
    def forward(
        self, hidden: torch.Tensor, time: torch.Tensor, place: torch.Tensor, outcome: torch.Tensor,
        offset: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        count = 0
        while bool(hidden.isfinite().all()):
            count += 1
        return hidden + time + place + outcome + offset + count


class Greedy(torch.nn.Module):
    def forward(
        self, hidden: torch.Tensor, time: torch.Tensor, place: torch.Tensor, outcome: torch.Tensor,
        offset: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        return hidden + time + place + outcome + offset + torch.ones(25_000_000_000).sum()


def _rewrite(bundle: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    (bundle / file).write_bytes(change((bundle / file).read_bytes()))


def _flip(bundle: Path, file: str, share: float) -> None:
    content = bytearray((bundle / file).read_bytes())
    content[int(share * len(content))] ^= 1
    (bundle / file).write_bytes(content)


def _noise(bundle: Path, file: str) -> None:
    size = (bundle / file).stat().st_size
    (bundle / file).write_bytes(np.random.default_rng(size).bytes(size))


def _remove(bundle: Path, file: str) -> None:
    (bundle / file).unlink()


def _link(bundle: Path, file: str) -> None:
    elsewhere = bundle.parent / "elsewhere"
    (bundle / file).rename(elsewhere)
    (bundle / file).symlink_to(elsewhere)


def _move_folder(bundle: Path) -> None:
    (bundle / "unified").rename(bundle.parent / "unified")
    (bundle / "unified").symlink_to(bundle.parent / "unified")


def _grow(bundle: Path, file: str) -> None:
    with (bundle / file).open("r+b") as stream:
        stream.truncate(HUGE)


def _edit(bundle: Path, edit: Callable[[Fields], object]) -> None:
    fields = json.loads((bundle / MANIFEST).read_text())
    edit(fields)
    (bundle / MANIFEST).write_text(json.dumps(fields))


def _set(fields: Fields, path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        fields = fields[part]
    fields[path[-1]] = value


def _rejson(content: bytes, make: Callable[[Fields], object]) -> bytes:
    return json.dumps(make(json.loads(content)), ensure_ascii=False).encode()


def _retensor(bundle: Path, file: str, change: Callable[[Arrays], object]) -> None:
    arrays = load_file(bundle / file)
    change(arrays)
    save_file(arrays, bundle / file)


def _retensored(file: str, change: Callable[[Arrays], object]) -> Corrupt:
    return partial(_retensor, file=file, change=change)


def _scaled(arrays: Arrays) -> None:
    for array in arrays.values():
        array.mul_(1.5)


def _filled(index: Any, *content: NDArray[Any]) -> Any:
    index.train(content[0])
    (index.add_with_ids if len(content) > 1 else index.add)(*content)
    return index


def _index_of(bundle: Path, make: Callable[[NDArray[np.float32]], Any]) -> None:
    vector_VE = load_file(bundle / ITEMS)["vector_VE"].numpy()
    faiss.write_index(make(vector_VE), str(bundle / INDEX))


def _coarse(vector_VE: NDArray[np.float32]) -> Any:
    eight_bits = (vector_VE.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    return _filled(faiss.IndexScalarQuantizer(*eight_bits), vector_VE[::-1].copy())


def _reindex(bundle: Path, change: Callable[[Any], object]) -> None:
    index = faiss.read_index(str(bundle / INDEX))
    change(index)
    faiss.write_index(index, str(bundle / INDEX))


def _poke(vector: Any, place: int, value: int) -> None:
    array = faiss.vector_to_array(vector)
    array[place] = value
    faiss.copy_array_to_vector(array, vector)


def _relabel(index: Any, label: int | None) -> None:
    """Give the first item of the first list with two another id; None: that of the second."""
    lists = index.invlists
    number = next(number for number in range(index.nlist) if lists.list_size(number) > 1)
    ids = faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
    ids[0] = ids[1] if label is None else label


def _swap(bundle: Path, files: tuple[str, str]) -> None:
    first, second = ((bundle / file).read_bytes() for file in files)
    (bundle / files[0]).write_bytes(second)
    (bundle / files[1]).write_bytes(first)


def _script(bundle: Path, module: torch.nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(bundle / GRAPHS[1]))


def _inflate(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / GRAPHS[1], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("retrieval_head/data.pkl", bytes(64 << 20))


def _identity(bundle: Path) -> None:
    model = onnx.load(bundle / ONNX)
    del model.graph.node[:]
    names = [given.name for given in model.graph.input]
    model.graph.node.append(onnx.helper.make_node("Identity", [names[-1]], [model.graph.output[0].name]))
    (bundle / ONNX).write_bytes(model.SerializeToString())
