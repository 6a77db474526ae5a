"""Without a server, a second ranker reads of a request what training would, with rates of training alone."""

import numpy as np
import pytest
import torch

from tests.support.clusters import cluster_dataset
from tests.support.slate_requests import LAST_BITS
from unipinrec.data.history import History
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.config import sized
from unipinrec.models.transact.batch import RankingBatch
from unipinrec.models.transact.config import TransactConfig, TransactTraining
from unipinrec.models.transact.examples import SlateConfig, SlateExamples
from unipinrec.models.transact.module import TransAct
from unipinrec.models.transact.objective import TransactObjective
from unipinrec.models.transact.offline import OfflineSecondRanker


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InteractionDataset:
    return cluster_dataset(tmp_path_factory.mktemp("clusters") / "data", 20)


@pytest.fixture(scope="module")
def examples(dataset: InteractionDataset) -> SlateExamples:
    config = sized(TransactConfig, "tiny", dataset.catalogue_fields)
    return SlateExamples(dataset, config, SlateConfig())


@pytest.fixture(scope="module")
def ranker(dataset: InteractionDataset, examples: SlateExamples) -> OfflineSecondRanker:
    torch.manual_seed(0)
    model = TransAct(sized(TransactConfig, "tiny", dataset.catalogue_fields))
    TransactObjective.of(model, TransactTraining(), examples)
    return OfflineSecondRanker(model)


def asked(dataset: InteractionDataset, batch: RankingBatch) -> tuple[list[OfflineRequest], list[np.ndarray]]:
    """The requests of a batch, from the dataset's own histories."""
    requests, candidates = [], []
    for row, user in enumerate(batch.user_R.tolist()):
        time = int(batch.requests.request_time_R[row])
        history = dataset.history(user)
        requests.append(OfflineRequest(history=history[history.timestamp_N < time], request_time=time))
        slate = slice(*batch.requests.candidate_offset_R1[row : row + 2].tolist())
        candidates.append(batch.requests.candidate_item_C[slate].numpy())
    return requests, candidates


def test_a_request_is_read_as_in_training(
    dataset: InteractionDataset, examples: SlateExamples, ranker: OfflineSecondRanker
) -> None:
    batch = next(iter(examples.batches(batch_size=12, seed=0)))
    made = ranker.request_batch(*asked(dataset, batch))
    for name in ("item_row_N", "actions_N", "surface_N", "timestamp_N", "offset_R1"):
        assert torch.equal(getattr(made.events, name), getattr(batch.requests.events, name)), name
    assert torch.equal(made.candidate_item_C, batch.requests.candidate_item_C)
    frozen = examples.base_rates()
    expected = frozen.items(made.candidate_item_C.numpy())
    assert np.allclose(made.item_rate_CA.numpy(), expected.item_rate_CA)


def test_probabilities_do_not_depend_on_company(
    dataset: InteractionDataset, examples: SlateExamples, ranker: OfflineSecondRanker
) -> None:
    requests, candidates = asked(dataset, next(iter(examples.batches(batch_size=6, seed=1))))
    together = ranker.action_probabilities(requests, candidates)
    assert [len(found) for found in together] == [len(rows) for rows in candidates]
    for request, rows, found in zip(requests, candidates, together, strict=True):
        (alone,) = ranker.action_probabilities([request], [rows])
        assert (alone - found).abs().max() < LAST_BITS
        assert ((found > 0) & (found < 1)).all()
    assert ranker.action_probabilities([], []) == []


def test_impressions_come_from_the_request(dataset: InteractionDataset, ranker: OfflineSecondRanker) -> None:
    history = dataset.history(0)
    rows = np.array([1, 11, 21, 31])
    shown = History(item_row_N=rows, actions_N=0 * rows, timestamp_N=rows * 10, surface_N=0 * rows)
    plain = OfflineRequest(history=history, request_time=100_000)
    told = OfflineRequest(history=history, request_time=100_000, impressions=shown)
    without, having = (ranker.action_probabilities([each], [rows])[0] for each in (plain, told))
    assert (without - having).abs().max() > LAST_BITS
