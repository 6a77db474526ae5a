"""What can be configured about a simulated world, its people and its log."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from unipinrec.config import Config, Count, Probability

HOUR, DAY = 3_600, 86_400
"""Seconds."""
BUSIEST = 5
"""A user has at most this many times the mean number of sessions."""


def _ascending(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"range is {bounds[0]} to {bounds[1]}; allowed: the smaller number first")
    return bounds


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Spread = Annotated[float, Field(ge=0.0, le=10.0)]
PerAction = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
SpreadPerAction = tuple[Spread, Spread, Spread, Spread]
CountRange = Annotated[tuple[Count, Count], AfterValidator(_ascending)]


class ChoiceConfig(Config):
    """The choice model of `unipinrec.simulator.choice`. Numbers are logits, in the order of `ACTIONS`."""

    bias: PerAction = (-4.6, -2.6, -3.8, -3.6)
    """c of every action. Higher ones make the action more frequent."""
    affinity_weight: PerAction = (5.0, 1.5, -3.0, 1.5)
    """a of every action. Larger ones make actions easier to predict for who knows the taste."""


class SimulatorConfig(Config):
    """One synthetic log. Equal configurations give equal tables."""

    users: Annotated[int, Field(ge=1, le=9_999_999)] = 4_000
    """People. Rows and seconds grow with `users x sessions`, by about 50 rows a session."""
    items: Count = 4_000
    """Items of the catalogue."""
    sessions: Annotated[float, Field(ge=1.0, le=300.0)] = 12.0
    """Mean number of sessions of a user; at most 5 times as many for the busiest."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds everything."""

    topics: Annotated[int, Field(ge=4)] = 40
    """Topic centres; items are spread over them evenly."""
    latent_dim: Annotated[int, Field(ge=2)] = 16
    """Width of the latent unit vectors of items and tastes. Fewer dimensions make topics overlap."""
    item_spread: Spread = 0.6
    """Length of an item's deviation from its topic centre, which has length 1."""
    popularity_spread: Spread = 1.0
    """Standard deviation of log popularity. Higher values make the tail heavier."""
    popularity_effect: Spread = 0.4
    """Click logit per unit of log popularity."""
    topic_spread: SpreadPerAction = (0.0, 0.9, 0.5, 0.9)
    """Standard deviation between topics of each action's logit. What makes a topic saveable makes it less
    shareable, by the same number of standard deviations."""
    item_spread_of_actions: SpreadPerAction = (0.0, 0.7, 0.5, 0.7)
    """Standard deviation between items of one topic of each action's logit."""
    cold_item_share: Probability = 0.02
    """Share of the items that the log never shows; only their content and attributes are known."""
    content_dim: Count = 24
    """Width of the observed content vectors. Below `latent_dim + 4` they cannot tell everything."""
    content_noise: Spread = 0.3
    """Standard deviation of the noise in content numbers, whose signal has about 1."""

    interests: CountRange = (3, 4)
    """Interests of a user; a user never has two in one topic."""
    interest_spread: Spread = 0.4
    """Length of the deviation of a user's interest from its topic centre, which has length 1."""
    drift: Probability = 0.02
    """Chance after a session that an interest moves to a near topic. Higher values age histories faster."""
    awake_interests: Annotated[int, Field(ge=0)] = 0
    """Interests that a user's sessions are about for the time being. The others are dormant until they come
    back: no session is about them, and no slate shows them as an interest. 0: none is dormant."""
    waking: Probability = 0.0
    """Chance after a session that a dormant interest comes back and an awake one goes dormant."""
    near_topics: Count = 5
    """Nearest topics among which a drifting interest chooses."""
    transition_spread: Spread = 1.5
    """Standard deviation of the log preference for a topic after another, the same for everyone. Higher
    values make the next session more predictable from the current one."""
    repeat_weight: Spread = 0.2
    """Preference for the topic of the session before, where another topic has about 1."""
    user_spread_of_actions: SpreadPerAction = (0.3, 0.9, 0.7, 0.9)
    """Standard deviation between users of each action's logit: savers, sharers, hiders."""
    activity_spread: Spread = 0.6
    """Standard deviation of the log of a user's expected number of sessions."""
    session_weight: Share = 0.7
    """Share of the session's interest in the current taste; the rest is the mean of all interests."""
    click_pull: Spread = 0.25
    """How far the taste moves toward the mean of a feedview's clicked items, for the rest of the session."""

    days: Annotated[float, Field(gt=0.0, le=3_650.0)] = 90.0
    """Length of the log."""
    end: Annotated[int, Field(ge=10 * 365 * DAY, le=9_999_999_999)] = 1_717_200_000
    """Unix seconds before which every session ends."""
    shortest_gap: Count = HOUR
    """Seconds from the start of a session to that of the user's next one, at least."""
    gap_spread: Spread = 1.2
    """Standard deviation of the log of the rest of the gap."""
    feedviews: CountRange = (1, 4)
    """Feedviews of a session."""
    feedview_gap: CountRange = (20, 180)
    """Seconds from the last row of a feedview to the first of the next."""
    dwell: CountRange = (1, 4)
    """Seconds from a row to the next of the same feedview."""
    slate: CountRange = (10, 30)
    """Items of a feedview."""
    session_share: Share = 0.3
    """Chance that an item of a slate is of the session's topic."""
    interest_share: Share = 0.25
    """Chance that it is of another interest of the user."""
    popular_share: Share = 0.25
    """Chance that it is drawn by popularity; otherwise it is drawn uniformly."""
    exploration_share: Share = 0.1
    """Share of feedviews whose items all are drawn uniformly, shown on the surface `explore`."""
    choice: ChoiceConfig = ChoiceConfig()
    """What people do with what they see."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = max(self.topics, self.slate[1])
        if self.items - self.cold_items < needed:
            raise ValueError(
                f"items is {self.items}, {self.cold_items} of them cold; allowed: at least {needed} others"
            )
        if not 2 <= self.interests[0] <= self.interests[1] <= self.topics:
            raise ValueError(f"interests is {self.interests}; allowed: 2 to topics {self.topics}")
        if self.awake_interests and not 2 <= self.awake_interests < self.interests[0]:
            raise ValueError(
                f"awake_interests is {self.awake_interests}; allowed: 0, or from 2 to fewer than interests "
                f"{self.interests[0]}"
            )
        if self.near_topics >= self.topics:
            raise ValueError(f"near_topics is {self.near_topics}; allowed: 1 to {self.topics - 1}")
        share = self.session_share + self.interest_share + self.popular_share
        if share > 1:
            raise ValueError(
                f"session_share, interest_share and popular_share add up to {share}; allowed: 0 to 1"
            )
        self._check_times()
        return self

    def _check_times(self) -> None:
        feedviews, gap, rows = self.feedviews[1], self.feedview_gap[1], self.slate[1]
        longest = feedviews * rows * self.dwell[1] + (feedviews - 1) * gap
        if self.shortest_gap < longest:
            raise ValueError(
                f"shortest_gap is {self.shortest_gap}; allowed: at least the longest session, {longest} s"
            )
        needed = self.most_sessions * self.shortest_gap / DAY
        if self.days < needed:
            raise ValueError(
                f"days is {self.days}; allowed: at least {needed:.1f} for {self.most_sessions} sessions"
            )

    @property
    def cold_items(self) -> int:
        """Number of items that the log never shows."""
        return round(self.cold_item_share * self.items)

    @property
    def most_sessions(self) -> int:
        """Most sessions that a user may have."""
        return round(BUSIEST * self.sessions)


LIFELONG = SimulatorConfig(
    users=150, sessions=300, days=365, interests=(10, 12), awake_interests=2, waking=0.4, drift=0.0
)
"""Long histories, of which old events matter: an interest lasts about a week and comes back after about a
month, as it was. The latest 100 events tell of few of them."""

WORLDS = {"feed": SimulatorConfig(), "lifelong": LIFELONG}
"""What `unipinrec data simulate --world` starts from."""
