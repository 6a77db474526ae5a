"""A policy of random weights in a bundle, and what offline PyTorch chooses by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from unipinrec_client import RecommendRequest

from tests.conftest import ACTIONS, Exported
from unipinrec.data.arms import Arms, WeightRange
from unipinrec.models.policy.card import Alphas, PolicyCard
from unipinrec.models.policy.cohorts import cohort_of
from unipinrec.models.policy.config import CohortRule, PolicyConfig
from unipinrec.models.policy.module import ValueNetwork
from unipinrec.models.policy.offline import OfflinePolicy
from unipinrec.models.policy.state import policy_state
from unipinrec.training.checkpoint import fingerprint, load_model, save_model

PRODUCTION = (1.0, 0.5, 0.0)
VARIED = (WeightRange(action="click", low=0.5, high=2.0), WeightRange(action="save", low=0.25, high=4.0))
COHORTS = (CohortRule(name="core", action="save", days=1, window_days=365 * 3),)
ROUNDING = 1e-5
"""Between values that TorchScript, ONNX and PyTorch compute of the same request."""
ALPHAS = Alphas(default=0.3, cohorts={"core": 0.6})


@dataclass(frozen=True)
class PolicyExported:
    """A bundle with a policy beside the exported model."""

    bundle: Path
    card: PolicyCard
    model: ValueNetwork


def with_policy(exported: Exported, folder: Path, chosen: Alphas | None = ALPHAS) -> PolicyExported:
    """Return a bundle of the exported model and of a policy whose choices differ from user to user."""
    config = PolicyConfig(
        **exported.dataset.catalogue_fields,
        arms=Arms(actions=ACTIONS, production=PRODUCTION, varied=VARIED),
        cohorts=COHORTS,
    )
    policy = random_policy(config, folder / "checkpoints", exported.dataset.info.sha256)
    card = PolicyCard(
        fingerprint=fingerprint(policy),
        synthetic=True,
        arms=config.arms,
        rewards=("click", "save"),
        cohorts=config.cohort_names,
        chosen=chosen,
    )
    card_file = folder / "card.json"
    card_file.write_text(card.model_dump_json())
    bundle = exported.with_second(policy, folder / "bundles", card_file)
    return PolicyExported(bundle, card, load_model(policy))


def random_policy(config: PolicyConfig, folder: Path, dataset: dict[str, str]) -> Path:
    """Weights so large that requests differ in their best arm, without a training run."""
    torch.manual_seed(25)
    model = ValueNetwork(config)
    spreads = {"head.arm": 4.0, "head.heads": 0.02}
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=spreads.get(name.rpartition(".")[0].removesuffix(".0"), 0.25))
    return save_model(folder, "policy", config, model, dataset)


def expected_arms(
    policy: PolicyExported, exported: Exported, requests: Sequence[RecommendRequest], alphas: Alphas = ALPHAS
) -> list[set[int]]:
    """Return the arms that offline PyTorch finds best for each stored history, up to rounding."""
    config = policy.model.config
    users = {str(user_id): user for user, user_id in enumerate(exported.dataset.user_ids_U)}
    arms = []
    for request in requests:
        assert request.request_time is not None
        time_s, surface = request.request_time, request.surface or 0
        history = exported.dataset.history(users[str(request.user_id)])
        state = policy_state(history, time_s, surface, config)
        value_K2 = OfflinePolicy(policy.model).values([state])[0]
        alpha = alphas.of(config.cohort_names[cohort_of(history, time_s, config)])
        worth_K = alpha * value_K2[:, 1] + (1 - alpha) * value_K2[:, 0]
        arms.append(set(np.flatnonzero(worth_K > worth_K.max() - ROUNDING).tolist()))
    return arms
