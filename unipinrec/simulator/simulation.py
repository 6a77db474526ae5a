"""Runs a simulated world and writes what comes of it.

Shapes: U users, N sessions of a user, B users of one step, S shown items of one step, K items of the largest
slate, D latent width, A actions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from unipinrec.arrays import Float64s, Int64s
from unipinrec.data.download import Report
from unipinrec.data.events import DatasetInfo
from unipinrec.data.prepared import PreparedDataset, require_new, write_prepared
from unipinrec.simulator.choice import ACTIONS, CLICK, conditional_probabilities, draw_actions
from unipinrec.simulator.config import DAY, SimulatorConfig
from unipinrec.simulator.items import Items
from unipinrec.simulator.log import Step, events_of, joined
from unipinrec.simulator.policy import LoggingPolicy
from unipinrec.simulator.topics import Topics, unit
from unipinrec.simulator.truth import Truth
from unipinrec.simulator.users import Users

INFO = DatasetInfo(
    name="simulator",
    actions=ACTIONS,
    surfaces=("home", "explore"),
    tie_rule="no two events of a user have equal timestamps",
    sampled_impressions=False,
    positive_actions=("click", "save", "share"),
    utility_weights=(1.0, 2.0, 0.0, 2.0),
)


@dataclass(frozen=True, slots=True)
class Simulation:
    """A synthetic log, its catalogue and what is behind them."""

    events: pl.DataFrame
    """In `EVENT_SCHEMA`, ordered by user and time; `feedview_id` is the index that `truth` knows."""
    items: pl.DataFrame
    """In `ITEM_SCHEMA`, ordered by id."""
    truth: Truth


def simulate(config: SimulatorConfig, report: Report) -> Simulation:
    """Run the world of `config`, whose equals give equal tables; `report` gets a line per step."""
    world = World(config)
    for session in range(int(world.users.sessions_U.max())):
        world.run_session(session)
    log = joined(world.steps)
    users = f"{config.users:,} synthetic users"
    report(f"simulated {len(log.item_row_S):,} shown rows in {len(log.user_B):,} feedviews of {users}")
    items = world.items
    truth = Truth(
        config=config,
        user_F=log.user_B,
        timestamp_F=log.timestamp_B,
        explored_F=log.explored_B,
        session_F=log.session_B,
        topic_F=log.topic_B,
        taste_FD=log.taste_BD,
        topic_V=items.topic_V,
        latent_VD=items.latent_VD.astype(np.float32),
        item_propensity_VA=items.propensity_VA.astype(np.float32),
        cold_V=items.cold_V,
        user_propensity_UA=world.users.propensity_UA.astype(np.float32),
    )
    return Simulation(events_of(log, config.users, config.items), items.frame(), truth)


def prepare_simulation(folder: Path, config: SimulatorConfig, report: Report) -> PreparedDataset:
    """Write a simulation as the prepared dataset `folder`, with `truth.safetensors` beside the tables.

    Raises `PreparedDatasetError` if `folder` exists.
    """
    require_new(folder)
    simulation = simulate(config, report)
    dataset = write_prepared(folder, simulation.events, simulation.items, INFO)
    simulation.truth.save(folder)
    report(f"{len(dataset.events):,} rows written to {folder}")
    return dataset


class World:
    """Items, users and the log so far. Every user lives through the n-th session in the same call."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._random = np.random.default_rng(config.seed)
        topics = Topics.draw(config, self._random)
        self.items = Items.draw(config, topics, self._random)
        self.users = Users(config, topics, self._random)
        self.steps: list[Step] = []
        self._policy = LoggingPolicy(config, self.items, self._random)
        self._start_UN = session_starts(config, self.users.sessions_U, self._random)

    def run_session(self, session: int) -> None:
        """Let everyone who has as many sessions live through the one with that number, from 0."""
        user_B = np.flatnonzero(self.users.sessions_U > session)
        time_B = self._start_UN[user_B, session]
        taste_BD = self.users.taste(user_B)
        feedviews_B = self._random.integers(*self._config.feedviews, len(user_B), endpoint=True)
        for feedview in range(int(feedviews_B.max())):
            present_B = feedviews_B > feedview
            user_B, feedviews_B = user_B[present_B], feedviews_B[present_B]
            step = self._feedview(user_B, session, time_B[present_B], taste_BD[present_B])
            self.steps.append(step)
            gap_B = self._random.integers(*self._config.feedview_gap, len(user_B), endpoint=True)
            last_B = np.searchsorted(step.feedview_S, np.arange(len(user_B)), side="right") - 1
            time_B = step.timestamp_S[last_B] + gap_B
            taste_BD = self._pulled(step)
        self.users.end_session(np.flatnonzero(self.users.sessions_U > session))

    def _feedview(self, user_B: Int64s, session: int, time_B: Int64s, taste_BD: Float64s) -> Step:
        users, random, config = self.users, self._random, self._config
        topic_B = users.topic(user_B)
        explored_B = random.random(len(user_B)) < config.exploration_share
        feedview_S, item_row_S = self._policy.slates(
            topic_B, users.topic_UI[user_B], users.other_interests(user_B), explored_B
        )
        affinity_S = np.einsum("sd,sd->s", taste_BD[feedview_S], self.items.latent_VD[item_row_S])
        own_SA = users.propensity_UA[user_B[feedview_S]]
        conditional_SA = conditional_probabilities(
            affinity_S, self.items.propensity_VA[item_row_S] + own_SA, config.choice
        )
        dwell_BK = random.integers(*config.dwell, (len(user_B), config.slate[1]), endpoint=True)
        after_BK = dwell_BK.cumsum(axis=1) - dwell_BK[:, :1]
        rank_S = np.arange(len(feedview_S)) - np.searchsorted(feedview_S, feedview_S)
        return Step(
            user_B=user_B,
            timestamp_B=time_B,
            explored_B=explored_B,
            session_B=np.full_like(user_B, session),
            topic_B=topic_B,
            taste_BD=taste_BD.astype(np.float32),
            feedview_S=feedview_S,
            item_row_S=item_row_S,
            actions_S=draw_actions(conditional_SA, random),
            timestamp_S=time_B[feedview_S] + after_BK[feedview_S, rank_S],
        )

    def _pulled(self, step: Step) -> Float64s:
        """Tastes after a feedview: moved toward the mean of the clicked items, [B, D]."""
        clicked = step.actions_S >> CLICK & 1 == 1
        feedview, item_row = step.feedview_S[clicked], step.item_row_S[clicked]
        total_BD = np.zeros(step.taste_BD.shape)
        np.add.at(total_BD, feedview, self.items.latent_VD[item_row])
        clicks_B = np.bincount(feedview, minlength=len(total_BD)).clip(1)
        return unit(step.taste_BD + self._config.click_pull * total_BD / clicks_B[:, None])


def session_starts(config: SimulatorConfig, sessions_U: Int64s, random: np.random.Generator) -> Int64s:
    """Return the unix seconds of every session's start, [U, N], of which the first `sessions_U` have meaning.

    Gaps are `shortest_gap` and a log-normal rest; the rests, with one before the first session and one after
    the last, are scaled to fill the log's days.
    """
    number_N = np.arange(sessions_U.max() + 1)
    rest_UN = random.lognormal(0.0, config.gap_spread, (len(sessions_U), len(number_N)))
    rest_UN *= number_N <= sessions_U[:, None]
    length_s = round(config.days * DAY)
    free_U = length_s - config.shortest_gap * sessions_U
    scale_U = free_U / rest_UN.sum(axis=1)
    start_UN = rest_UN.cumsum(axis=1) * scale_U[:, None] + config.shortest_gap * number_N
    return config.end - length_s + start_UN[:, :-1].astype(np.int64)
