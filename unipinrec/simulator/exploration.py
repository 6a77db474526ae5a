"""An exploration log of a simulated dataset, and the expected reward of every arm for every request.

Shapes: R requests of the log, B requests computed at once, C candidates, K arms, A actions, M rewards.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.exploration import (
    ExplorationInfo,
    ExplorationLog,
    ExplorationLogError,
    read_log_info,
)
from unipinrec.data.interactions import InteractionDataset
from unipinrec.simulator.choice import conditional_probabilities, draw_actions, marginal_probabilities
from unipinrec.simulator.exploration_config import ExplorationConfig
from unipinrec.simulator.ranking import CandidateSource, Ranker
from unipinrec.simulator.truth import TRUTH, Truth

CHUNK = 64
"""Requests computed at once, by `8 x candidates x arms` bytes each: few enough for a processor's cache."""
LARGEST_CHANCE = 1 - 1e-7
"""Of an item; the logarithm of its complement stays finite."""


@dataclass(frozen=True, slots=True)
class SimulatedExploration:
    """A log, and what it does not tell."""

    log: ExplorationLog
    expected_RKM: Float32s
    """Expected rewards of every arm, for the candidates and head scores of each request."""
    config: ExplorationConfig

    def save(self, folder: Path) -> None:
        """Write the log into the new folder `folder`, then the truth beside it.

        Raises `ExplorationLogError` if `folder` exists.
        """
        info = self.log.save(folder)
        partial = folder / f".partial-{TRUTH}"
        metadata = {"requests": info.sha256, "config": self.config.model_dump_json()}
        save_file({"expected_RKM": np.ascontiguousarray(self.expected_RKM)}, partial, metadata)
        partial.rename(folder / TRUTH)


def load_expected(folder: Path) -> Float32s:
    """Read the expected reward of every arm for every request of a simulated log, in its order, [R, K, 2].

    Raises `ExplorationLogError` if the log has no truth, or that of other requests.
    """
    expected = read_log_info(folder).sha256
    if not (folder / TRUTH).is_file():
        raise ExplorationLogError(f"log {folder} has no {TRUTH}, as only simulated ones have")
    try:
        with safe_open(folder / TRUTH, framework="np") as stored:
            found = (stored.metadata() or {}).get("requests")
            expected_RKM: Float32s = stored.get_tensor("expected_RKM")
    except SafetensorError as error:
        raise ExplorationLogError(f"log {folder}: {TRUTH} is unreadable: {error}") from error
    if found != expected:
        raise ExplorationLogError(f"log {folder}: {TRUTH} is that of requests {found}; allowed: {expected}")
    return expected_RKM


def simulate_exploration(
    interactions: InteractionDataset,
    truth: Truth,
    config: ExplorationConfig,
    progress: Progress,
    *,
    served_F: Bools | None = None,
) -> SimulatedExploration:
    """Return a log of requests at the dataset's feedviews, with the expected rewards of all arms.

    A share of the requests draws its arm uniformly among all, the others have production's. Candidates are
    ranked by the sum of weight x head score; of those served, actions are drawn by the dataset's truth, and
    are independent between items. A reward is whether at least one served item got its action. `served_F`
    says which feedviews have requests; without it all have.

    Raises `ValueError` if no request explores, or fewer items are shown than a request has candidates.
    """
    random = np.random.default_rng(config.seed)
    requests = _Requests.draw(truth, config, random, served_F)
    shelf = _Shelf(interactions, truth, config, config.arms.weights(), random)
    reward_RM, expected_RKM = _serve_all(shelf, requests.feedview_R, requests.arm_R, progress)
    name = f"{interactions.info.name}-exploration"
    log = ExplorationLog(
        info=ExplorationInfo(name=name, arms=config.arms, synthetic=True),
        request_id_R=requests.ids(),
        user_id_R=interactions.user_ids_U[truth.user_F[requests.feedview_R]],
        timestamp_R=truth.timestamp_F[requests.feedview_R],
        surface_R=interactions.feedviews.surface_F[requests.feedview_R],
        explored_R=requests.explored_R,
        arm_R=requests.arm_R,
        propensity_R=np.where(requests.explored_R, 1 / len(config.arms), 1.0),
        reward_RM=reward_RM,
    )
    return SimulatedExploration(log, expected_RKM, config)


def expected_of_weights(
    interactions: InteractionDataset,
    truth: Truth,
    config: ExplorationConfig,
    weight_XA: Float64s,
    progress: Progress,
    *,
    served_F: Bools | None = None,
) -> Float32s:
    """Return the expected rewards of any weights, [R, X, M], in the requests of `simulate_exploration` called
    with the same arguments: for the same candidates and head scores.

    Raises `ValueError` as it does.
    """
    random = np.random.default_rng(config.seed)
    requests = _Requests.draw(truth, config, random, served_F)
    shelf = _Shelf(interactions, truth, config, weight_XA, random)
    return _serve_all(shelf, requests.feedview_R, np.zeros_like(requests.arm_R), progress)[1]


def _serve_all(
    shelf: "_Shelf", feedview_R: Int64s, arm_R: Int64s, progress: Progress
) -> tuple[Float64s, Float32s]:
    rewards, expected = [], []
    task = progress.add_task("requests", total=len(feedview_R))
    for begin in range(0, len(feedview_R), CHUNK):
        chunk = slice(begin, begin + CHUNK)
        reward_BM, expected_BKM = shelf.serve(feedview_R[chunk], arm_R[chunk])
        rewards.append(reward_BM)
        expected.append(expected_BKM)
        progress.advance(task, len(reward_BM))
    return np.concatenate(rewards), np.concatenate(expected)


@dataclass(frozen=True, slots=True)
class _Requests:
    """Which requests are in the log, by time."""

    feedview_R: Int64s
    number_R: Int64s
    """Of the request among those of its feedview."""
    explored_R: Bools
    arm_R: Int64s

    @classmethod
    def draw(
        cls, truth: Truth, config: ExplorationConfig, random: np.random.Generator, served_F: Bools | None
    ) -> "_Requests":
        shape = (len(truth), config.traffic)
        served_F1 = np.ones((len(truth), 1), bool) if served_F is None else served_F[:, None]
        explored_FN = served_F1 & (random.random(shape) < config.share)
        kept_FN = explored_FN | served_F1 & (random.random(shape) < config.production_share)
        if not explored_FN.any():
            raise ValueError(
                f"share is {config.share}, and none of {explored_FN.size} requests explores; allowed: a "
                "larger share, or more traffic"
            )
        feedview_R, number_R = np.nonzero(kept_FN)
        order_R = np.argsort(truth.timestamp_F[feedview_R], kind="stable")
        feedview_R, number_R = feedview_R[order_R], number_R[order_R]
        explored_R = explored_FN[feedview_R, number_R]
        drawn_R = random.integers(len(config.arms), size=len(feedview_R))
        return cls(
            feedview_R, number_R, explored_R, np.where(explored_R, drawn_R, config.arms.production_arm)
        )

    def ids(self) -> NDArray[np.object_]:
        pairs = zip(self.feedview_R.tolist(), self.number_R.tolist(), strict=True)
        return np.array([f"{feedview}-{number}" for feedview, number in pairs], np.object_)


class _Shelf:
    """Serves requests by the weights of an arm, and knows what every arm would have brought."""

    def __init__(
        self,
        interactions: InteractionDataset,
        truth: Truth,
        config: ExplorationConfig,
        weight_KA: Float64s,
        random: np.random.Generator,
    ) -> None:
        self._truth = truth
        self._random = random
        self._top_k = config.top_k
        self._rewarded = list(config.arms.columns)
        self._weight_KA = weight_KA
        self._candidates = CandidateSource(interactions, truth, config.candidates, random)
        self._ranker = Ranker(config.ranker, truth.config.choice, random)

    def serve(self, feedview_B: Int64s, arm_B: Int64s) -> tuple[Float64s, Float32s]:
        """Return drawn rewards of the given arms, [B, M], and expected rewards of all arms, [B, K, M]."""
        truth = self._truth
        item_BC = self._candidates.draw(feedview_B)
        affinity_BC = np.einsum("bd,bcd->bc", truth.taste_FD[feedview_B], truth.latent_VD[item_BC])
        item_BCA = truth.item_propensity_VA[item_BC]
        own_BA = truth.user_propensity_UA[truth.user_F[feedview_B]]
        head_BCA = self._ranker.heads(affinity_BC, item_BCA, own_BA)
        served_BKC = best(self._weight_KA @ head_BCA.transpose(0, 2, 1), self._top_k)
        conditional_BCA = conditional_probabilities(
            affinity_BC, item_BCA + own_BA[:, None], truth.config.choice
        )
        chance_BCM = marginal_probabilities(conditional_BCA)[..., self._rewarded]
        action_BC = draw_actions(conditional_BCA, self._random)
        done_BCM = action_BC[..., None] >> np.array(self._rewarded) & 1 == 1
        shown_BC = served_BKC[np.arange(len(arm_B)), arm_B]
        reward_BM = (done_BCM & shown_BC[..., None]).any(axis=1).astype(np.float64)
        return reward_BM, at_least_one(served_BKC, chance_BCM)


def best(score_BKC: Float64s, top_k: int) -> Bools:
    """Return which candidates are among the `top_k` with the highest scores of each arm, [B, K, C]."""
    place = score_BKC.shape[2] - top_k
    least_BK1 = np.partition(score_BKC, place, axis=2)[..., place, None]
    return score_BKC >= least_BK1


def at_least_one(served_BKC: Bools, chance_BCM: Float32s) -> Float32s:
    """Return the chance that at least one served item gets the action, [B, K, M]: 1 - prod(1 - p)."""
    log_miss_BCM = np.log1p(-chance_BCM.clip(max=LARGEST_CHANCE))
    return -np.expm1(served_BKC.astype(np.float32) @ log_miss_BCM)
