"""The losses of the second ranker are their formulas, and its training is repeatable and resumable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.clusters import ITEMS as CLUSTER_ITEMS
from tests.support.clusters import cluster_dataset
from tests.support.slate_requests import ACTIONS, ITEMS, LAST_BITS, SURFACES, Sizes, slates
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.objective import Share
from unipinrec.models.config import sized, with_vectors
from unipinrec.models.registry import find_model
from unipinrec.models.spec import Examples
from unipinrec.models.transact.batch import RankingBatch
from unipinrec.models.transact.config import (
    TransactConfig,
    TransactTraining,
    TransactV2Config,
    TransactV2Training,
)
from unipinrec.models.transact.examples import SlateConfig, SlateExamples
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.nearest import nearest_rows
from unipinrec.models.transact.objective import TransactObjective, TransactV2Objective, label_weights
from unipinrec.models.transact.search import quantised
from unipinrec.training.checkpoint import load_model, load_offline
from unipinrec.training.trainer import train

NAMES = ("click", "save", "hide")
POSITIVE = 0b011
CATALOGUE = {"num_items": ITEMS, "num_actions": ACTIONS, "num_surfaces": SURFACES, "max_candidates": 8}
SIZED = (Sizes(30, 9, 4), Sizes(0, 0, 3), Sizes(40, 2, 6), Sizes(1, 30, 1), Sizes(12, 0, 5), Sizes(3, 3, 2))


def first(**training: Any) -> TransactObjective:
    torch.manual_seed(0)
    model = TransAct(TransactConfig(max_events=20, cross_dim=24, **CATALOGUE))
    return TransactObjective(model, TransactTraining(**training), NAMES)


def second(latest_events: int = 4, **training: Any) -> TransactV2Objective:
    torch.manual_seed(0)
    model = TransActV2(
        TransactV2Config(
            max_events=64, realtime_events=latest_events + 5, lifelong_nearest=5, latest_events=latest_events,
            realtime_nearest=3, impressions_nearest=6, cross_dim=24, **CATALOGUE,
        )
    )  # fmt: skip
    model.search_VW.copy_(torch.randint(-127, 128, model.search_VW.shape))
    return TransactV2Objective(model, TransactV2Training(**training), NAMES, POSITIVE)


def value(objective: Any, batch: RankingBatch, *shares: Share) -> float:
    with torch.no_grad():
        return sum(float(objective(batch, share).total) for share in shares or (Share(),))


def test_the_loss_is_the_sum_over_actions_of_mean_cross_entropies() -> None:
    objective, batch = first().eval(), slates(SIZED)
    losses = objective(batch)
    probability_CA = torch.sigmoid(objective.model(batch.requests)).double()
    right_CA = torch.where(batch.label_CA > 0, probability_CA, 1 - probability_CA)
    for name, wanted in zip(NAMES, -right_CA.log().mean(0), strict=True):
        assert float(losses.parts[name].detach()) == pytest.approx(float(wanted), abs=LAST_BITS)
    assert float(losses.total.detach()) == pytest.approx(float(-right_CA.log().mean(0).sum()), abs=LAST_BITS)


def test_labels_weigh_heads_by_the_matrix() -> None:
    """A hide makes clicks count ten times; whatever has no weight above 1 counts once."""
    weight_HA = ((1.0, 0.0, 10.0), (0.0, 4.0, 0.0), (0.5, 0.0, 1.0))
    label_CA = torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]])
    found = label_weights(label_CA, torch.tensor(weight_HA))
    assert found is not None
    assert found.tolist() == [[1, 4, 1], [10, 1, 1], [1, 1, 1], [11, 1, 1.5]]
    assert label_weights(label_CA, None) is None
    batch, plain, weighted = slates(SIZED), first().eval(), first(label_weights=weight_HA).eval()
    hidden = batch.label_CA[:, 2] > 0
    assert 0 < hidden.sum() < len(hidden)
    alone = replace(batch, label_CA=batch.label_CA * torch.tensor([1.0, 0, 0]))
    assert value(weighted, alone) == pytest.approx(value(plain, alone), abs=LAST_BITS)
    assert value(weighted, batch) > value(plain, batch) + 0.1
    with pytest.raises(ValueError, match=r"^label_weights has shape \(1, 3\); allowed: \(3, 3\)$"):
        first(label_weights=((1.0, 1.0, 1.0),))


@pytest.mark.parametrize("make", [first, second])
def test_shares_of_a_batch_add_up_to_it(make: Any) -> None:
    objective, batch = make(), slates(SIZED)
    for part in objective.modules():
        if hasattr(part, "probability"):
            part.probability = 0.0
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0

    def share(index: int, count: int) -> Share:
        return Share(index, count, torch.Generator().manual_seed(5))

    whole = value(objective, batch, share(0, 1))
    assert value(objective, batch, *(share(index, 4) for index in range(4))) == pytest.approx(whole, abs=1e-5)
    assert value(objective, batch, *(share(index, 9) for index in range(9))) == pytest.approx(whole, abs=1e-5)


def test_the_time_window_is_drawn_for_each_request_and_in_training_alone() -> None:
    objective, batch = first(time_window_s=2 * 86_400), slates(SIZED)
    seen: list[Tensor] = []
    objective.model.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    objective(batch)
    objective(batch)
    assert not torch.equal(seen[0], seen[1])
    assert len(seen[0].unique()) == len(SIZED)
    assert seen[0].min() >= 0
    assert seen[0].max() < 2 * 86_400
    objective.eval()(batch)
    assert seen[2] is None
    off = first(time_window_s=0)
    off.model.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    off(batch)
    assert seen[3] is None


def test_ids_are_hidden_in_training_alone() -> None:
    objective, batch = first(id_dropout=0.9, time_window_s=0), slates(SIZED)
    objective.model.embedder.id_table.weight.data.normal_()
    training = {value(objective, batch) for _ in range(3)}
    assert len(training) == 3
    objective.eval()
    assert len({value(objective, batch) for _ in range(3)}) == 1


@pytest.mark.parametrize("negatives", ["impression", "in_batch"])
def test_the_next_action_loss_is_a_softmax_over_one_right_item_and_what_was_drawn(negatives: str) -> None:
    """Against means over single candidates' positions, of single negatives."""
    objective, batch = (
        second(next_action_negatives=negatives, next_action_weight=1.0, negatives=7).eval(),
        slates(SIZED),
    )
    model, next_action = objective.model, objective.next_action
    assert next_action is not None
    losses = objective(batch, Share(draw=torch.Generator().manual_seed(3)))
    share = Share(draw=torch.Generator().manual_seed(3))
    negative_RX, usable_RX = next_action.negatives(batch, share)
    ranked, requests = model.ranked(batch.requests), batch.requests
    events, shown = requests.events, requests.impressions
    total, positions = 0.0, 0
    for candidate, request in enumerate(requests.request_of_candidate.tolist()):
        own = range(*events.offset_R1[request : request + 2].tolist())
        impressions = shown.item_row_N[slice(*shown.offset_R1[request : request + 2].tolist())].tolist()
        latest = list(own)[-4:]
        first_place = int(ranked.tokens.latest_begin_C[candidate])
        positives = {
            int(events.item_row_N[event]) for event in latest[1:] if int(events.actions_N[event]) & POSITIVE
        }
        by_place = []
        for place, event in enumerate(latest[1:]):
            if not int(events.actions_N[event]) & POSITIVE:
                continue
            assert int(ranked.tokens.row_CT[candidate, first_place + place]) == latest[place]
            predicted = next_action.predict(ranked.row_CTD[candidate, first_place + place])
            item = int(events.item_row_N[event])
            drawn = [
                int(row)
                for row, usable in zip(negative_RX[request], usable_RX[request], strict=True)
                if usable
            ]
            if negatives == "impression":
                assert set(drawn) <= set(impressions)
            wrong = [row for row in drawn if row not in positives]
            vectors = model.vectors(torch.tensor([item, *wrong]))
            score = (vectors @ predicted).double()
            by_place.append(float(score.logsumexp(0) - score[0]))
        total += sum(by_place) / max(len(by_place), 1)
        positions += len(by_place)
    assert positions > 20
    wanted = total / len(batch.label_CA)
    assert float(losses.parts["next_action"]) == pytest.approx(wanted, rel=1e-5)
    others = sum(float(loss) for name, loss in losses.parts.items() if name != "next_action")
    assert float(losses.total) == pytest.approx(others + wanted, rel=1e-5)


def test_in_batch_negatives_are_other_users_events() -> None:
    objective, batch = second(next_action_negatives="in_batch", negatives=200), slates(SIZED)
    same = replace(batch, user_R=torch.tensor([0, 1, 0, 2, 0, 3]))
    assert objective.next_action is not None
    place = batch.requests.events.item_row_N
    renamed = replace(batch.requests.events, item_row_N=torch.arange(len(place)))
    same = replace(same, requests=replace(batch.requests, events=renamed))
    negative_RX, usable_RX = objective.next_action.negatives(same, Share())
    owner_N = same.user_R.repeat_interleave(renamed.lengths)
    for request, user in enumerate(same.user_R.tolist()):
        owners = set(owner_N[negative_RX[request][usable_RX[request]]].tolist())
        assert user not in owners
        assert owners == {0, 2, 3} - {user}


def test_the_next_action_loss_teaches_the_encoder_and_the_item_vectors() -> None:
    objective, batch = second(next_action_weight=1.0).train(), slates(SIZED)
    objective(batch).parts["next_action"].backward()
    reached = {
        name for name, weight in objective.named_parameters() if weight.grad is not None and weight.grad.any()
    }
    assert {"next_action.predict.weight", "model.embedder.id_table.weight"} <= reached
    assert {"model.encoder.layers.1.project.weight", "model.encoder.position.weight"} <= reached
    assert not any(name.startswith("model.heads") for name in reached)


def test_the_next_action_loss_does_not_grow_with_the_number_of_latest_events() -> None:
    """Predictions of zeros score all items alike: a position's loss is the log of how many there are."""
    batch = slates([Sizes(60, 50, 3), Sizes(50, 60, 2)])
    losses = []
    for latest_events in (4, 40):
        objective = second(latest_events, negatives=7, next_action_negatives="in_batch").eval()
        assert objective.next_action is not None
        for weight in objective.next_action.predict.parameters():
            torch.nn.init.zeros_(weight)
        losses.append(float(objective(batch).parts["next_action"].detach()))
    assert min(losses) > 0.5
    assert max(losses) <= np.log(8) + LAST_BITS


def test_without_negatives_there_is_no_next_action_loss() -> None:
    losses = second(next_action_negatives="none")(slates(SIZED))
    assert losses.parts.keys() == set(NAMES)


def test_logged_rows_and_full_sequences_give_the_same_loss() -> None:
    objective, batch = second(next_action_weight=1.0).eval(), slates(SIZED)
    logged = replace(
        batch, nearest=nearest_rows(batch.requests, objective.model.search_VW, objective.model.config)
    )
    shares = [Share(draw=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert value(objective, logged, shares[0]) == value(objective, batch, shares[1])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InteractionDataset:
    return cluster_dataset(tmp_path_factory.mktemp("clusters") / "data", 40)


VECTORS = torch.nn.functional.normalize(
    torch.randn(CLUSTER_ITEMS, 8, generator=torch.Generator().manual_seed(0)), dim=1
)


def examples_of(name: str, dataset: InteractionDataset) -> tuple[Any, Any, Examples]:
    spec = find_model(name)
    assert spec.examples_by_vectors is not None
    config = sized(spec.config, "tiny", with_vectors(spec.config, dataset.catalogue_fields, 8))
    return spec, config, spec.examples_by_vectors(dataset, config, 0, VECTORS)


class PowerCutError(Exception):
    """Stops a run from outside."""


@pytest.mark.parametrize("name", ["transact", "transact-v2"])
def test_an_interrupted_run_ends_as_one_without_interruption(
    name: str, dataset: InteractionDataset, tmp_path: Path
) -> None:
    spec, config, examples = examples_of(name, dataset)
    training = spec.training(epochs=3, batch_size=16, id_dropout=0.2, time_window_s=5_000)
    whole = train(spec, examples, config, training, tmp_path / "whole")
    set_epoch = examples.set_epoch

    def cut(epoch: int) -> None:
        if epoch == 1:
            raise PowerCutError
        set_epoch(epoch)

    vars(examples)["set_epoch"] = cut
    with pytest.raises(PowerCutError):
        train(spec, examples, config, training, tmp_path / "cut")
    del vars(examples)["set_epoch"]
    resumed = train(spec, examples, config, training, tmp_path / "cut")
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, other = (load_file(path / file) for path in (whole, resumed))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert (whole / "state.json").read_text() == (resumed / "state.json").read_text()


@pytest.mark.parametrize("name", ["transact", "transact-v2"])
@pytest.mark.parametrize("half_lives_s", [(3_000,), ()], ids=["means", "the encoder alone"])
def test_training_learns_what_users_click(
    name: str, half_lives_s: tuple[int, ...], dataset: InteractionDataset, tmp_path: Path
) -> None:
    """Items of the user's cluster against others, which nothing but the sequences tells."""
    spec, config, examples = examples_of(name, dataset)
    config = config.model_copy(update={"half_lives_s": half_lives_s})
    training = spec.training(epochs=12, batch_size=16, learning_rate=1e-2, time_window_s=0)
    checkpoint = train(spec, examples, config, training, tmp_path)
    model = load_model(checkpoint)
    assert model.heads.rates.prior_A.abs().min() > 0.1
    batch = next(iter(examples.batches(batch_size=40, seed=0)))
    with torch.no_grad():
        score_C = model.eval()(batch.requests)[:, 0]
    clicked_C = batch.label_CA[:, 0] > 0
    known_C = (batch.requests.events.lengths > 0)[batch.requests.request_of_candidate]
    mine, others = score_C[clicked_C & known_C], score_C[~clicked_C & known_C]
    assert float((mine.unsqueeze(1) > others).float().mean()) > 0.9
    assert load_offline(checkpoint).action_probabilities([], []) == []


def test_vectors_of_other_items_are_refused(dataset: InteractionDataset) -> None:
    config = sized(TransactConfig, "tiny", dataset.catalogue_fields)
    with pytest.raises(ValueError, match=r"^vectors are of 3 items; allowed: 40$"):
        SlateExamples(dataset, config, SlateConfig(), vector_VE=torch.zeros(3, 8))


@pytest.mark.parametrize(
    ("vector_VE", "message"),
    [
        (None, r"^vectors are missing; TransAct V2 searches by those of another model$"),
        (torch.zeros(40, 4), r"^vectors have shape \(40, 4\); allowed: \(40, 8\)$"),
    ],
)
def test_what_v2_cannot_search_by_is_refused(
    dataset: InteractionDataset, vector_VE: torch.Tensor | None, message: str
) -> None:
    spec = find_model("transact-v2")
    width = 0 if vector_VE is None else vector_VE.size(1)
    fields = with_vectors(TransactV2Config, dataset.catalogue_fields, width)
    config = sized(TransactV2Config, "tiny", fields | {"search_dim": 8})
    examples = SlateExamples(dataset, config, SlateConfig(), vector_VE=vector_VE)
    with pytest.raises(ValueError, match=message):
        spec.objective(spec.make(config), spec.training(), examples)


@pytest.mark.parametrize("name", ["transact", "transact-v2"])
def test_given_vectors_are_content_of_the_items(name: str, dataset: InteractionDataset) -> None:
    spec, config, examples = examples_of(name, dataset)
    model = spec.objective(spec.make(config), spec.training(), examples).model
    content_VF = model.embedder.content_VF
    own = dataset.content_VF.shape[1]
    assert np.array_equal(content_VF[:, :own], dataset.content_VF)
    assert torch.equal(content_VF[:, own:], VECTORS * 8**0.5)


def test_the_hash_of_examples_tells_vectors_apart(dataset: InteractionDataset) -> None:
    config = sized(TransactConfig, "tiny", dataset.catalogue_fields)
    hashes = [
        SlateExamples(dataset, config, SlateConfig(), vector_VE=vectors).sha256
        for vectors in (VECTORS, -VECTORS)
    ]
    assert hashes[0].keys() == hashes[1].keys() > dataset.info.sha256.keys()
    assert hashes[0] != hashes[1]


def test_logged_examples_have_the_rows_that_a_search_finds(dataset: InteractionDataset) -> None:
    config = sized(TransactV2Config, "tiny", dataset.catalogue_fields | {"search_dim": 8})
    search_VW = quantised(VECTORS)
    logged = SlateExamples(
        dataset,
        config,
        SlateConfig(),
        nearest=lambda requests: nearest_rows(requests, search_VW, config),
    )
    batch = next(iter(logged.batches(batch_size=8, seed=0)))
    expected = nearest_rows(batch.requests, search_VW, config)
    assert batch.nearest is not None
    assert torch.equal(batch.nearest.older_CK, expected.older_CK)
