"""A second ranker of random weights in a bundle, and what offline PyTorch answers with it.

Shapes: K candidates or results, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ensemble.stores.dataset_histories import events_of
from ensemble.stores.history_store import Events
from tests.conftest import ACTIONS, ITEMS, NOW, SURFACES, Exported
from tests.support.answers import Answer
from unipinrec.bundle import read_manifest
from unipinrec.data.history import History
from unipinrec.models.common.rates.base_rates import BaseRates
from unipinrec.models.registry import find_model
from unipinrec.models.transact.config import SecondRankerConfig, TransactConfig, TransactV2Config
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.search import quantised
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest
from unipinrec.training.checkpoint import load_model, save_model

SIZES = {
    "num_items": ITEMS,
    "num_actions": len(ACTIONS),
    "num_surfaces": len(SURFACES),
    "max_candidates": 128,
}
CONFIGS: dict[str, SecondRankerConfig] = {
    "transact": TransactConfig(**SIZES, max_impressions=50),
    "transact-v2": TransactV2Config(**SIZES, max_events=16_000, max_impressions=1_000),
}


@dataclass(frozen=True)
class RankerExported:
    """A bundle with a second ranker beside the exported model."""

    bundle: Path
    model: TransAct | TransActV2


def with_second_ranker(exported: Exported, folder: Path, name: str, **changes: object) -> RankerExported:
    """Return a bundle of the exported model and of a second ranker that orders items otherwise; `changes` are
    to its configuration."""
    checkpoint = random_ranker(name, folder / "checkpoints", exported.dataset.info.sha256, **changes)
    return RankerExported(exported.with_second(checkpoint, folder / "bundles"), load_model(checkpoint))


def random_ranker(name: str, folder: Path, dataset: dict[str, str], **changes: object) -> Path:
    """Weights so large that every part of a request counts, and small enough for probabilities between."""
    config = CONFIGS[name].model_copy(update=changes)
    torch.manual_seed(31)
    model = find_model(name).make(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    draw = np.random.default_rng(31)
    model.heads.rates.keep(random_rates(draw))
    if isinstance(model, TransActV2):
        vector_VE = draw.normal(size=(ITEMS, config.search_dim)).astype(np.float32)
        vector_VE /= np.linalg.norm(vector_VE, axis=1, keepdims=True)
        model.search_VW.copy_(quantised(torch.from_numpy(vector_VE)))
    return save_model(folder, name, config, model, dataset)


def random_rates(draw: np.random.Generator) -> BaseRates:
    """Rates of which no two items have the same."""

    def drawn(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return draw.normal(size=shape).astype(np.float32)

    return BaseRates(
        prior_A=drawn(len(ACTIONS)) - 2,
        user_strength_A=np.full(len(ACTIONS), 10.0, np.float32),
        item_rate_VA=drawn(ITEMS, len(ACTIONS)),
        item_shown_V=abs(drawn(ITEMS)),
        attribute_rate_VA=drawn(ITEMS, len(ACTIONS)),
        attribute_shown_V=abs(drawn(ITEMS)),
    )


def offline_full(
    exported: Exported, ranker: RankerExported, requests: Sequence[OfflineRequest], num_results: int = 20
) -> list[Answer]:
    """What PyTorch recommends by both rankers without a server, by the bundle's defaults.

    Histories may hold impressions, which the first ranker does not see.
    """
    defaults = read_manifest(exported.bundle).defaults
    events = [replace(request, history=acted_on(request.history)) for request in requests]
    # With nothing cut off, the first ranker's answer has all candidates.
    wanted = min(defaults.over_fetch * num_results, exported.model.config.max_candidates)
    everything = defaults.model_copy(update={"over_fetch": 1})
    found = OfflineRecommender(exported.model).recommend(events, wanted, everything)
    probabilities = OfflineSecondRanker(ranker.model).action_probabilities(
        requests, [answer.item_row_K for answer in found]
    )
    answers = []
    for answer, probability in zip(found, probabilities, strict=True):
        probability_KA = probability.numpy()
        score_K = (probability_KA * np.float32(defaults.utility_weights)).sum(axis=1)
        item_id_K = exported.dataset.item_ids_V[answer.item_row_K]
        order = np.lexsort((item_id_K, -score_K))[:num_results]
        numbers = np.column_stack([probability_KA, answer.probability_KA, score_K])
        answers.append(Answer(item_id_K[order].tolist(), numbers[order], answer.origin_K[order].tolist()))
    return answers


def acted_on(history: History) -> History:
    """Return a history without impressions."""
    return history[history.actions_N != 0]


def as_events(exported: Exported, history: History) -> Events:
    """Return a history as a store takes it."""
    return events_of(history, exported.dataset.item_ids_V)


def mixed(seed: int, length: int) -> History:
    """A random history of as many events as impressions, of a third of the catalogue, before requests."""
    draw = np.random.default_rng((17, seed))
    return History(
        item_row_N=3 * draw.integers(ITEMS // 3, size=length),
        actions_N=draw.integers(1, 2 ** len(ACTIONS), size=length) * draw.integers(2, size=length),
        timestamp_N=NOW - np.sort(draw.integers(1, 90 * 86_400, size=length))[::-1],
        surface_N=draw.integers(len(SURFACES), size=length),
    )
