"""The models of a bundle: weights of the shapes that their configurations say, and graphs that compute them.

Graphs are programs, and running them is part of this check: a bundle is trusted as code is.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ensemble.bundle_check.refusal import Report, in_a_line, refuse, require_equal
from ensemble.loaded_bundle import SECOND_RANKER_CONFIGS
from unipinrec.bundle import MANIFEST, POLICY, UNIFIED, WEIGHTS, BundleError, Manifest
from unipinrec.data.arms import RELATIVE_TOLERANCE
from unipinrec.graph import differences, load_graph
from unipinrec.models.common.item_graph import EMBEDDER
from unipinrec.models.config import CatalogueConfig, ItemConfig
from unipinrec.models.policy.card import CARD, PolicyCard
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.files import GRAPH
from unipinrec.models.policy.graphs import NAMES
from unipinrec.models.policy.graphs import probe as policy_probe
from unipinrec.models.transact.served import empty_second_ranker
from unipinrec.models.unified.files import ENCODER, RANKING_HEAD, RETRIEVAL_HEAD
from unipinrec.models.unified.graphs import EncoderGraph, RankingHeadGraph, probe
from unipinrec.models.unified.served import ServedModel

TOLERANCE = 1e-2
"""By which a graph may differ from its weights: less than another model does, more than another processor."""

PROBED = (3, 0)
"""Events of the histories by which graphs are tried."""

TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
INFLATION = 4
"""Times the bytes of an archive that its parts may have."""


def check_headers(folder: Path, manifest: Manifest, report: Report) -> None:
    """Check names, shapes and types of all weights. Raises `BundleError`."""
    report(MANIFEST)
    policy = manifest.config_of(POLICY, PolicyConfig) if POLICY in manifest.models else None
    ranker = manifest.second_ranker
    ranker_config = manifest.config_of(ranker, SECOND_RANKER_CONFIGS[ranker]) if ranker else None
    for name, config in ((POLICY, policy), (ranker or "", ranker_config)):
        if config is not None:
            _check_catalogue(name, config, manifest)
    report(f"{UNIFIED}/{WEIGHTS}")
    # Not on the device "meta", which takes a second to import PyTorch's compiler.
    _check_shapes(folder, f"{UNIFIED}/{WEIGHTS}", ServedModel(manifest.model).state_dict())
    if ranker and ranker_config:
        report(f"{ranker}/{WEIGHTS}")
        _check_shapes(folder, f"{ranker}/{WEIGHTS}", empty_second_ranker(ranker_config).state_dict())


def check_content(folder: Path, manifest: Manifest, report: Report) -> None:
    """Check that weights are numbers and that graphs compute with them. Raises `BundleError`."""
    torch.set_num_threads(1)
    for name in (UNIFIED, manifest.second_ranker):
        if name is not None:
            report(f"{name}/{WEIGHTS}")
            _check_finite(folder, f"{name}/{WEIGHTS}")
    model = ServedModel.load(folder / UNIFIED / WEIGHTS, manifest.model)
    tried = probe(manifest.model, lengths=PROBED, candidates=2, seed=1)
    eager = {
        ENCODER: (EncoderGraph(model), tried.encoder),
        RETRIEVAL_HEAD: (model.retrieval_head, tried.retrieval_head),
        RANKING_HEAD: (RankingHeadGraph(model), tried.ranking_head),
    }
    for name, (module, inputs) in eager.items():
        report(f"{UNIFIED}/{name}")
        _check_graph(folder, f"{UNIFIED}/{name}", module, inputs)
    report(f"{UNIFIED}/{EMBEDDER}")
    _check_embedder(folder, f"{UNIFIED}/{EMBEDDER}", manifest.model)
    ranker = manifest.second_ranker
    if ranker is not None:
        report(f"{ranker}/{EMBEDDER}")
        ranker_config = manifest.config_of(ranker, SECOND_RANKER_CONFIGS[ranker])
        _check_embedder(folder, f"{ranker}/{EMBEDDER}", ranker_config)
    if POLICY in manifest.models:
        _check_policy(folder, manifest, manifest.config_of(POLICY, PolicyConfig), report)


def _check_catalogue(name: str, config: CatalogueConfig, manifest: Manifest) -> None:
    for field in ("num_items", "num_actions", "num_surfaces"):
        require_equal(MANIFEST, f"{field} of {name}", getattr(config, field), getattr(manifest.model, field))


def _check_shapes(folder: Path, file: str, expected: Mapping[str, Tensor]) -> None:
    with safe_open(folder / file, framework="pt") as weights:
        found = set(weights.keys())
        for name in sorted(found ^ expected.keys()):
            refuse(
                file, f"tensor {name}", "there" if name in found else "missing", "those of the configuration"
            )
        for name, tensor in expected.items():
            part = weights.get_slice(name)
            require_equal(file, f"shape of {name}", part.get_shape(), list(tensor.shape))
            require_equal(file, f"type of {name}", part.get_dtype(), TYPES[tensor.dtype])


def _check_finite(folder: Path, file: str) -> None:
    with safe_open(folder / file, framework="pt") as weights:
        names = weights.keys()
        for name in names:
            tensor = weights.get_tensor(name)
            if tensor.is_floating_point() and not tensor.isfinite().all():
                refuse(file, f"a number of {name}", tensor[~tensor.isfinite()][0].item(), "finite numbers")


def _check_graph(folder: Path, file: str, eager: nn.Module, inputs: tuple[object, ...]) -> None:
    graph = _open(folder, file)
    try:
        found = max(differences(graph, eager, inputs, runs=1), key=lambda one: one if one == one else np.inf)
    except Exception as error:
        raise _not_run(file, error) from error
    if not found <= TOLERANCE:
        refuse(file, f"its difference from {WEIGHTS}", f"{found:.2g}", f"0 to {TOLERANCE:g}")


def _check_embedder(folder: Path, file: str, config: ItemConfig) -> None:
    """Try an item of the catalogue, and one that it does not have, without attributes and content."""
    graph = _open(folder, file)
    shapes = ((2, config.max_attributes), (2, config.content_dim))
    try:
        with torch.inference_mode():
            last = torch.tensor([-1, config.num_items - 1])
            made_2E = graph(last, torch.zeros(shapes[0], dtype=torch.long), torch.zeros(shapes[1]))
            length_2 = made_2E.norm(dim=1).tolist()
    except Exception as error:
        raise _not_run(file, error) from error
    require_equal(file, "its width", made_2E.size(1), config.item_dim)
    for length in length_2:
        # What is no number is not within the range either.
        if not abs(length - 1) <= TOLERANCE:
            refuse(file, "the length of a vector", f"{length:.3g}", "1")


def _not_run(file: str, error: Exception) -> BundleError:
    reason = in_a_line(error)
    return BundleError(f"{file} cannot be run: {reason}; allowed: the graph of its name, of this model")


def _open(folder: Path, file: str) -> torch.jit.ScriptModule:
    path = folder / file
    with zipfile.ZipFile(path) as archive:
        inflated, most = sum(part.file_size for part in archive.infolist()), INFLATION * path.stat().st_size
    if inflated > most:
        refuse(file, "its size in bytes, unpacked,", inflated, f"up to {most}")
    return load_graph(path)


def _check_policy(folder: Path, manifest: Manifest, config: PolicyConfig, report: Report) -> None:
    name = f"{POLICY}/{CARD}"
    report(name)
    card = PolicyCard.model_validate_json((folder / name).read_bytes())
    require_equal(name, "its arms", card.arms, config.arms)
    require_equal(name, "its cohorts", card.cohorts, config.cohort_names)
    require_equal(name, "actions of its arms", card.arms.actions, manifest.actions)
    weights = manifest.defaults.utility_weights
    if not np.allclose(card.arms.production, weights, rtol=RELATIVE_TOLERANCE):
        refuse(name, "production", list(card.arms.production), f"{list(weights)}, the utility weights")
    kept = manifest.model.max_history - manifest.model.window_block + 1
    if config.max_history > kept:
        refuse(MANIFEST, f"max_history of {POLICY}", config.max_history, f"1 to {kept}, which serving keeps")
    name = f"{POLICY}/{GRAPH}"
    report(name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
    require_equal(name, "its inputs", sorted(one.name for one in session.get_inputs()), sorted(NAMES.inputs))
    arms = len(config.arms)
    inputs = dict(
        zip(NAMES.inputs, policy_probe(config, [config.max_history] * 2, arms, seed=1), strict=True)
    )
    inputs["item_row"][0, 0] = config.num_items - 1
    value_BK2 = session.run([NAMES.output], {key: one.numpy() for key, one in inputs.items()})[0]
    require_equal(name, "shape of its output", value_BK2.shape, (2, arms, 2))
    if not np.isfinite(value_BK2).all():
        refuse(name, "a number of its output", value_BK2[~np.isfinite(value_BK2)][0], "finite numbers")
