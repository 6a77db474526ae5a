"""Exported graphs answer as the model does, and one that does not is refused."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ensemble.executors.torchscript.encoder import HistoryEncoder
from ensemble.kv.prefill import Prefill
from ensemble.kv.shared_memory import SharedMemoryStorage
from ensemble.kv.slot_storage import SlotLayout
from ensemble.loaded_bundle import LoadedBundle
from export.check import ExportMismatchError, refuse_if_different
from tests.conftest import ACTIONS, ITEMS, SURFACES, Exported
from unipinrec.data.history import History
from unipinrec.graph import load_graph
from unipinrec.models.common.tokens import Events
from unipinrec.models.unified.graphs import EncoderGraph, Probe, RankingHeadGraph, probe
from unipinrec.models.unified.module import UnifiedRecommender

HEAD_WEIGHT = "retrieval_head.project.straight.weight"
GRAPHS: dict[
    str, tuple[Callable[[UnifiedRecommender], nn.Module], Callable[[Probe], tuple[object, ...]], str]
] = {
    "encoder.pt": (EncoderGraph, lambda one: one.encoder, "tokenizer.project.weight"),
    "retrieval_head.pt": (lambda model: model.retrieval_head, lambda one: one.retrieval_head, HEAD_WEIGHT),
    "ranking_head.pt": (RankingHeadGraph, lambda one: one.ranking_head, "ranking_head.outer"),
}
"""File to wrapper, inputs of a probe, and a weight that the graph reads."""

LENGTHS = [(0,), (0, 5), (1, 2, 3, 0, 77, 128, 64, 9)]
CANDIDATES = [2, 33]
SLOT = (2, 2, 2, 129, 32)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> LoadedBundle:
    return LoadedBundle.open(exported.bundle)


def changed(model: UnifiedRecommender, name: str, value: float) -> UnifiedRecommender:
    """A copy of the model with the first number of one weight changed."""
    other = deepcopy(model)
    with torch.no_grad():
        other.get_parameter(name).view(-1)[0] = value
    return other


@pytest.mark.parametrize("seed", [30, 31])
def test_the_encoder_continues_slots_as_encoding_whole_histories_does(
    loaded: LoadedBundle, exported: Exported, seed: int
) -> None:
    lengths = (1, 2, 3, 0, 77, 128, 64, 9)
    draw = np.random.default_rng(seed)
    vectors = loaded.item_vectors().__getitem__
    encoder = HistoryEncoder(load_graph(loaded.model_folder / "encoder.pt"), vectors)
    histories = [drawn_history(draw, length) for length in lengths]
    storage = SharedMemoryStorage(None, SlotLayout.of_model(loaded.manifest.model, 0, "float32"))
    for slot in range(len(lengths)):
        with storage.write(slot, 0, SLOT[3]) as memory:
            memory.fill_(float("nan"))
    with torch.inference_mode():
        # A first part of each history, then what is left of it.
        encoder(storage, [Prefill(one[: len(one) // 2], 0, slot) for slot, one in enumerate(histories)])
        late = [
            Prefill(one, len(one) // 2 + 1, slot)
            for slot, one in enumerate(histories)
            if len(one) > len(one) // 2
        ]
        encoder(storage, late)
        for slot, one in enumerate(histories):
            columns = (one.actions_N, one.timestamp_N, one.surface_N)
            actions, *rest = (torch.from_numpy(column)[None] for column in columns)
            vectors = exported.model.embedder(torch.from_numpy(one.item_row_N)[None])
            expected_1TC, expected_L21HTD = exported.model.encode(
                Events(vectors, actions, *rest, actions < 0)
            )
            written = storage.read(slot, len(one) + 1)
            assert (written - expected_L21HTD[:, :, 0]).abs().max() < TOLERANCE
            assert (storage.hidden(slot) - expected_1TC[0, -1]).abs().max() < TOLERANCE


def drawn_history(draw: np.random.Generator, length: int) -> History:
    return History(
        item_row_N=draw.integers(ITEMS, size=length),
        actions_N=draw.integers(1, 2 ** len(ACTIONS), size=length),
        timestamp_N=1_700_000_000 + draw.integers(9_000, size=length).cumsum(),
        surface_N=draw.integers(len(SURFACES), size=length),
    )


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_the_retrieval_head_gives_the_models_unit_vectors(
    loaded: LoadedBundle, exported: Exported, batch: int
) -> None:
    one = probe(exported.model.config, lengths=(3,) * batch, candidates=1, seed=32)
    with torch.inference_mode():
        found_BE = load_graph(loaded.model_folder / "retrieval_head.pt")(*one.retrieval_head)
        expected_BE = exported.model.retrieval_head(*one.retrieval_head)
    assert (found_BE - expected_BE).abs().max() < TOLERANCE
    assert (found_BE.norm(dim=1) - 1).abs().max() < TOLERANCE


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_the_ranking_head_gives_the_models_probabilities(
    loaded: LoadedBundle, exported: Exported, lengths: Sequence[int], candidates: int
) -> None:
    one = probe(exported.model.config, lengths=tuple(lengths), candidates=candidates, seed=33)
    with torch.inference_mode():
        found_BKA = load_graph(loaded.model_folder / "ranking_head.pt")(*one.ranking_head)
        expected_BKA = RankingHeadGraph(exported.model)(*one.ranking_head)
    assert found_BKA.shape == (len(lengths), candidates, len(ACTIONS))
    assert (found_BKA - expected_BKA).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", GRAPHS)
def test_an_exported_graph_passes_the_check(loaded: LoadedBundle, exported: Exported, name: str) -> None:
    wrapper, inputs_of, _ = GRAPHS[name]
    inputs = inputs_of(probe(exported.model.config, lengths=(4, 90), candidates=7, seed=34))
    difference = refuse_if_different(
        name, load_graph(loaded.model_folder / name), wrapper(exported.model).eval(), inputs
    )
    assert 0 <= difference <= TOLERANCE


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_with_one_weight_altered_is_refused(
    loaded: LoadedBundle, exported: Exported, name: str
) -> None:
    wrapper, inputs_of, weight = GRAPHS[name]
    inputs = inputs_of(probe(exported.model.config, lengths=(4, 90), candidates=7, seed=35))
    altered = wrapper(changed(exported.model, weight, 3.0)).eval()
    message = rf"^{name} differs from eager by \d\.\d\de[+-]\d\d; allowed: 0 to 1e-05$"
    with pytest.raises(ExportMismatchError, match=message):
        refuse_if_different(name, load_graph(loaded.model_folder / name), altered, inputs)
    with pytest.raises(ExportMismatchError, match=message):
        refuse_if_different(name, altered, wrapper(exported.model).eval(), inputs)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_answers_nan_is_refused(exported: Exported, name: str) -> None:
    wrapper, inputs_of, weight = GRAPHS[name]
    inputs = inputs_of(probe(exported.model.config, lengths=(4, 90), candidates=7, seed=36))
    broken = wrapper(changed(exported.model, weight, float("nan"))).eval()
    with pytest.raises(
        ExportMismatchError, match=rf"^{name} differs from eager by nan; allowed: 0 to 1e-05$"
    ):
        refuse_if_different(name, broken, wrapper(exported.model).eval(), inputs)
    with pytest.raises(ExportMismatchError, match="by nan"):
        refuse_if_different(name, broken, broken, inputs)


class Constant(nn.Module):
    """A graph that answers what it was made with."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self) -> tuple[Tensor, ...]:
        return self.outputs


def test_the_largest_difference_of_all_outputs_counts() -> None:
    eager = Constant(torch.zeros(2, 3), torch.ones(4))
    near = Constant(torch.full((2, 3), 2.0**-20), torch.ones(4) - 2.0**-18)
    assert refuse_if_different("graph", near, eager, ()) == 2.0**-18
    far = Constant(torch.zeros(2, 3), torch.tensor([1.0, 1.0, 1.0, 1.5]))
    with pytest.raises(
        ExportMismatchError, match=r"^graph differs from eager by 5\.00e-01; allowed: 0 to 1e-05$"
    ):
        refuse_if_different("graph", far, eager, ())


def test_a_graph_with_an_output_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        refuse_if_different("graph", Constant(torch.ones(1)), Constant(torch.ones(1), torch.ones(1)), ())


class Outputs(nn.Module):
    """A graph of two outputs, given as they are."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self) -> tuple[torch.Tensor, ...]:
        return self.outputs


@pytest.mark.parametrize("place", [0, 1])
def test_nan_in_any_output_is_refused(place: int) -> None:
    exported = [torch.zeros(2), torch.zeros(2)]
    exported[place] = torch.tensor([0.0, float("nan")])
    with pytest.raises(ExportMismatchError, match="differs from eager by nan"):
        refuse_if_different("graph", Outputs(*exported), Outputs(torch.zeros(2), torch.zeros(2)), ())


def test_a_shape_that_would_broadcast_is_refused() -> None:
    with pytest.raises(ExportMismatchError, match=r"graph has shape \(1, 3\); allowed: \(5, 3\)"):
        refuse_if_different("graph", Outputs(torch.zeros(1, 3)), Outputs(torch.zeros(5, 3)), ())
