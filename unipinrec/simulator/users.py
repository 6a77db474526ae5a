"""People: interests, the topic of their session, and how both change.

Shapes: U users, I interests, D latent width, A actions, C topics, B users of one step.
"""

import numpy as np

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.topics import Topics, near, unit


class Users:
    """All users; sessions change them. Who has fewer than I interests has some of weight 0."""

    def __init__(self, config: SimulatorConfig, topics: Topics, random: np.random.Generator) -> None:
        self._config = config
        self._topics = topics
        self._random = random
        users, (fewest, most) = config.users, config.interests
        self.topic_UI = _distinct_topics(users, most, config.topics, random)
        self._interest_UID = near(topics.centre_CD[self.topic_UI], config.interest_spread, random)
        held_U = random.integers(fewest, most, users, endpoint=True)
        weight_UI = random.gamma(2.0, size=(users, most)) * (np.arange(most) < held_U[:, None])
        self.weight_UI = weight_UI / weight_UI.sum(axis=1, keepdims=True)
        """Of the interests that are awake."""
        own_UA = random.standard_normal((users, len(config.user_spread_of_actions)))
        self.propensity_UA = own_UA * np.array(config.user_spread_of_actions)
        spread = config.activity_spread
        activity_U = random.lognormal(-(spread**2) / 2, spread, users)
        self.sessions_U = random.poisson(config.sessions * activity_U).clip(1, config.most_sessions)
        self._lasting_UI = self.weight_UI.copy()
        if config.awake_interests:
            self._awake_UI = self._first_awake(config.awake_interests)
            self._weigh(np.arange(users))
        self._current_U = choose(self.weight_UI, random)

    def topic(self, user_B: Int64s) -> Int64s:
        """Return the topics of the users' current sessions, [B]."""
        return self.topic_UI[user_B, self._current_U[user_B]]

    def other_interests(self, user_B: Int64s) -> Float64s:
        """Return the weights of the interests that the session is not about, [B, I]."""
        weight_BI = self.weight_UI[user_B]
        weight_BI[np.arange(len(user_B)), self._current_U[user_B]] = 0
        return weight_BI

    def taste(self, user_B: Int64s) -> Float64s:
        """Return the tastes at the start of the users' sessions: unit vectors, [B, D]."""
        share = self._config.session_weight
        current_BD = self._interest_UID[user_B, self._current_U[user_B]]
        general_BD = np.einsum("bi,bid->bd", self.weight_UI[user_B], self._interest_UID[user_B])
        return unit(share * current_BD + (1 - share) * general_BD)

    def end_session(self, user_B: Int64s) -> None:
        """Let interests drift to near topics, then choose the interest of each user's next session.

        Its chance grows with the interest's weight and the preference for its topic after the last one.
        """
        last_topic_B = self.topic(user_B)
        for interest in range(self.topic_UI.shape[1]):
            self._drift(user_B, interest)
        if self._config.awake_interests:
            self._wake(user_B[self._random.random(len(user_B)) < self._config.waking])
        weight_BI = self.weight_UI[user_B]
        preference_BI = self._topics.transition_CC[last_topic_B[:, None], self.topic_UI[user_B]]
        self._current_U[user_B] = choose(weight_BI * preference_BI, self._random)

    def _first_awake(self, count: int) -> Bools:
        """Draw interests by weight, none twice: the largest of exponential draws over their rates."""
        with np.errstate(divide="ignore"):
            due_UI = self._random.exponential(size=self._lasting_UI.shape) / self._lasting_UI
        return due_UI.argsort(axis=1).argsort(axis=1) < count

    def _wake(self, user_B: Int64s) -> None:
        """Let one dormant interest of each user come back, by weight, and one that was awake go dormant."""
        awake_BI = self._awake_UI[user_B]
        dormant_B = choose(awake_BI.astype(np.float64), self._random)
        woken_B = choose(self._lasting_UI[user_B] * ~awake_BI, self._random)
        self._awake_UI[user_B, dormant_B] = False
        self._awake_UI[user_B, woken_B] = True
        self._weigh(user_B)

    def _weigh(self, user_B: Int64s) -> None:
        weight_BI = self._lasting_UI[user_B] * self._awake_UI[user_B]
        self.weight_UI[user_B] = weight_BI / weight_BI.sum(axis=1, keepdims=True)

    def _drift(self, user_B: Int64s, interest: int) -> None:
        moving_B = user_B[self._random.random(len(user_B)) < self._config.drift]
        choice_B = self._random.integers(self._config.near_topics, size=len(moving_B))
        topic_B = self._topics.near_CN[self.topic_UI[moving_B, interest], choice_B]
        free_B = (self.topic_UI[moving_B] != topic_B[:, None]).all(axis=1)
        moving_B, topic_B = moving_B[free_B], topic_B[free_B]
        self.topic_UI[moving_B, interest] = topic_B
        self._interest_UID[moving_B, interest] = near(
            self._topics.centre_CD[topic_B], self._config.interest_spread, self._random
        )


def choose(weight_BI: Float64s, random: np.random.Generator) -> Int64s:
    """Draw a column of each row, with chances in proportion to the weights, [B]."""
    cumulative_BI = weight_BI.cumsum(axis=1)
    drawn_B = random.random(len(weight_BI)) * cumulative_BI[:, -1]
    return (cumulative_BI <= drawn_B[:, None]).sum(axis=1)


def _distinct_topics(users: int, count: int, topics: int, random: np.random.Generator) -> Int64s:
    order_UC = np.argsort(random.random((users, topics)), axis=1)
    return np.ascontiguousarray(order_UC[:, :count])
