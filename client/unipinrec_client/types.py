"""What a caller asks for and gets back, in the caller's own terms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UserId = str | bytes | int | np.integer[Any]
"""Text is sent as UTF-8, an integer as its decimal text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing a user did with one item."""

    item_id: int
    """External item id. -1 marks padding on the wire and stands for no item."""
    actions: int
    """Bitmask: bit `a` is set if action `a` of the bundle happened."""
    timestamp: int
    """Unix seconds."""
    surface: int = 0
    """Where in the product it happened."""
    event_id: str = ""
    """Name of the event, for `append_events` alone: of events of a user with one name, the first is stored.
    Without a name, events of a user with one item, timestamp and surface are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecommendRequest:
    """What to recommend to one user. The server fills what is None; it also checks all ranges."""

    user_id: UserId
    """External user id."""
    history: Sequence[Event] | None = None
    """Events, oldest first. None uses the server's stored history; an empty sequence means that the user
    has no history at all, whatever is stored."""
    request_time: int | None = None
    """Unix seconds; None means when the server handles the request."""
    surface: int | None = None
    """Where in the product the results will be shown; None means 0."""
    num_results: int | None = None
    """Results wanted; None means 50. Fewer come back when fewer candidates are found."""
    outcome_weights: Sequence[float] | None = None
    """Retrieval budget per action, one weight for each; None takes the bundle's."""
    utility_weights: Sequence[float] | None = None
    """A result's score is the sum of weight x predicted probability over the actions; None leaves the weights
    to the server: a policy's choice where it has one, else the bundle's."""
    exclude_item_ids: Iterable[int] | None = ()
    """Items that must not be returned, in any order; None means none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AppendRequest:
    """Events to add to one user's stored history."""

    user_id: UserId
    """External user id."""
    events: Sequence[Event]
    """Oldest first. They may be older than stored ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AppendResponse:
    """What became of one user's events, all of which are on the server's disk. What is neither stored nor a
    duplicate is older than the latest events that the server keeps."""

    user_id: UserId
    """As it was in the request."""
    stored: int
    duplicates: int
    """Events that were stored already, or came twice."""
    request_id: str = field(default="", compare=False)
    """What the server's logs and traces call the request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """One recommended item."""

    item_id: int
    score: float
    """Weighted sum of `action_probabilities`; recommendations are sorted by it, highest first."""
    action_probabilities: tuple[float, ...]
    """Predicted probability of each action, in the bundle's order."""
    retrieved_by: int
    """Which of the request's query embeddings found the item."""
    first_action_probabilities: tuple[float, ...] | None = None
    """What the first of two rankers predicted; `action_probabilities` are then those of the second. None
    where there is one ranker alone, as behind `recommend`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyDecision:
    """How the weights of one answer came about where the caller gave none; what is not told is None."""

    policy: str | None = None
    """First 12 hex characters of the fingerprint of the policy that chose."""
    arm: int | None = None
    """Weight vector that was chosen or drawn, among those of the policy."""
    alpha: float | None = None
    """Operating point that the choice was made for."""
    cohort: str | None = None
    """Of the user, which the operating point depends on."""
    revision: int | None = None
    """Of the operating points; 0 are those of the policy's card."""
    propensity: float | None = None
    """Chance with which an explored arm was drawn."""
    explored: bool | None = None
    """True if the arm was drawn at random."""
    fallback: str | None = None
    """Why the bundle's weights stand in for the policy's: `late`, `dead`, `busy`, `failed`, `invalid` or
    `withheld`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecommendResponse:
    """What one user gets."""

    user_id: UserId
    """As it was in the request."""
    recommendations: tuple[Recommendation, ...]
    """Best first; may be empty."""
    kv_source: str
    """Where the history's keys and values came from: `prefill`, `prefix` or `recomputed`."""
    bundle_id: str
    """The bundle that made the whole answer."""
    utility_weights: tuple[float, ...]
    """Weights of the actions that made the scores."""
    utility_source: str
    """Where these weights came from: the request (`given`), a random draw (`explored`), a policy (`chosen`)
    or the bundle (`default`)."""
    policy: PolicyDecision | None = None
    """What is told of the policy; None where there is none, or the weights were given."""
    request_id: str = field(default="", compare=False)
    """What the server's logs and traces call the request."""
