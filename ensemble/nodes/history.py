"""The `history` node: a request's tensors to a checked, windowed history in item rows.

Shapes: B users of one request, N events, A actions.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes import in_flight
from ensemble.nodes.checks import check_request
from ensemble.nodes.contract import ADMISSION, ASKED_OUTPUTS, CANARY, REQUEST_ID, Arrays
from ensemble.nodes.seal import POLICY_TICKET, SEALED_HISTORY, SEALED_LEFT_OUT, SEALED_LIFELONG, Seal
from ensemble.nodes.sealed_history import SealedHistory, left_out_to_bytes, owner_of
from ensemble.policy.request_channel import NOTHING_ASKED, Question, RequestSender, Ticket
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import EVENT, Events
from ensemble.stores.served_items import ServedItems
from ensemble.stores.stores import open_histories
from unipinrec.data.history import History
from unipinrec.data.sequences import Limits
from unipinrec.data.window import window_start
from unipinrec.models.policy.state import policy_state

log = logging.getLogger(__name__)

NEVER_LATE = in_flight.Ticket(2**63 - 1).to_array(1)[0]
"""Where no edge has admitted the request, as outside of a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """One user's part of a request, ready to be encoded."""

    history: History
    request_time: int
    surface: int
    num_results: int
    outcome_weight_A: Floats
    owner: bytes
    """Whose keys and values the history may share."""
    lifelong: History | None
    """What the second ranker may read, impressions among it; None where nobody asks for it."""
    left_out_row_X: Int64s
    """Items not to be found: those that the request excludes, and those anywhere in the whole history."""
    unknown_items: int
    """Events that were ignored because the bundle does not know their item, action or surface."""
    question: Question | None
    """To the policy; None where there is none, or the request says itself what an action is worth."""
    catalogue_version: int
    """At which the items' ids have become rows."""
    admission: Int64s
    """What goes with the request through the graph."""
    ticket: Ticket = NOTHING_ASKED
    """Under which scoring finds what a policy says of it."""


class HistoryNode:
    """Looks stored histories up, checks what was sent, and fills defaults in."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        self._bundle = loaded
        self._seal = Seal(settings, loaded.id)
        self._exclude_seen = settings.exclude_seen
        self._items = ServedItems.open(loaded, settings)
        # No other node waits: Triton loads four models at a time, of which one makes the rows.
        self._items.wait(settings.load_timeout_s)
        self._store = open_histories(settings)
        if self._store is None:
            log.warning("no store of histories at %s: users who send none are new ones", settings.histories)
        policy = loaded.policy()
        self._policy_config = policy[0] if policy else None
        self._policy = RequestSender(settings.runtime_dir)
        ranker = loaded.second_ranker()
        self._ranker_config = ranker[1] if ranker else None
        self._limits = {"max_events": settings.max_events, "max_exclude": settings.max_exclude}
        self.metrics = CollectorRegistry()
        self._unknown_items = Counter(
            "unipinrec_unknown_items",
            "Events that were ignored because the bundle does not know their item, action or surface",
            registry=self.metrics,
        )
        self._cold_starts = Counter(
            "unipinrec_cold_starts", "Users without any known event", registry=self.metrics
        )

    def parse(self, arrays: Arrays) -> list[Assembled]:
        """Return a row for each user of one request. Raises `InvalidInputError` for what is not allowed, and
        `StoreError` if the store fails."""
        check_request(arrays, self._bundle.manifest.model, **self._limits)
        self._items.refresh()
        stored = self._stored(arrays)
        return [self._assemble(arrays, row, stored) for row in range(len(arrays["USER_ID"]))]

    def run(self, rows: Sequence[Assembled]) -> Sequence[Assembled]:
        """Return the rows, counted, with tickets of what the policy was asked."""
        self._unknown_items.inc(sum(row.unknown_items for row in rows))
        self._cold_starts.inc(sum(len(row.history) == 0 for row in rows))
        tickets = iter(self._policy.ask([row.question for row in rows if row.question]))
        return [replace(row, ticket=next(tickets)) if row.question else row for row in rows]

    def pack(self, rows: Sequence[Assembled]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        tokens = self._seal.tokens(len(rows))
        lifelong = [_sealed(row, row.lifelong) for row in rows if row.lifelong is not None]
        left_out = [left_out_to_bytes(row.catalogue_version, row.left_out_row_X) for row in rows]
        tickets = [row.ticket.to_bytes() for row in rows]
        return {
            **self._seal.close(SEALED_HISTORY, tokens, [_sealed(row, row.history) for row in rows]),
            **(self._seal.close(SEALED_LIFELONG, tokens, lifelong) if lifelong else {}),
            **self._seal.close(SEALED_LEFT_OUT, tokens, left_out),
            **self._seal.close(POLICY_TICKET, tokens, tickets),
            "RESOLVED_NUM_RESULTS": np.array([[row.num_results] for row in rows], np.int64),
            "RESOLVED_OUTCOME_WEIGHTS": np.stack([row.outcome_weight_A for row in rows]),
            **self._seal.close(ADMISSION, tokens, [row.admission.tobytes() for row in rows]),
        }

    def close(self) -> None:
        """Close the history store and the channel to the policy."""
        if self._store is not None:
            self._store.close()
        self._policy.close()

    def _assemble(self, arrays: Arrays, user: int, stored: Sequence[Events]) -> Assembled:
        given = stored[user] if stored else self._sent(arrays, user)
        history = History(
            item_row_N=self._items.rows_of(given["item_id"]),
            actions_N=given["actions"].astype(np.int64),
            timestamp_N=given["timestamp"].astype(np.int64),
            surface_N=given["surface"].astype(np.int64),
        )
        model, defaults = self._bundle.manifest.model, self._bundle.manifest.defaults
        known = history[
            (history.item_row_N != PADDING)
            # A store outlives bundles, and may hold what this one's tables have no rows for.
            & (history.actions_N < 2**model.num_actions)
            & (history.surface_N < model.num_surfaces)
        ]
        # The trunk gets impressions only where it was trained on them; the second ranker always does.
        events = known if self._bundle.manifest.history_impressions else known[known.actions_N != 0]
        request_time = _scalar(arrays, "REQUEST_TIME", user, int(time.time()))
        surface = _scalar(arrays, "SURFACE", user, 0)
        question = None
        if self._policy_config is not None and "UTILITY_WEIGHTS" not in arrays:
            state = policy_state(self._in_bundle(events), request_time, surface, self._policy_config)
            question = Question(state.events, request_time, surface)
        weights = arrays["OUTCOME_WEIGHTS"][user] if "OUTCOME_WEIGHTS" in arrays else defaults.outcome_weights
        window = events[window_start(len(events), model.max_history, model.window_block) :]
        return Assembled(
            history=window,
            request_time=request_time,
            surface=surface,
            num_results=_scalar(arrays, "NUM_RESULTS", user, defaults.num_results),
            outcome_weight_A=np.asarray(weights, np.float32),
            owner=owner_of(
                arrays["USER_ID"][user, 0], stored="HISTORY_ITEM_IDS" not in arrays, events=len(window)
            ),
            lifelong=self._lifelong(arrays, known, request_time),
            left_out_row_X=self._left_out(arrays, user, events),
            unknown_items=len(history) - len(known),
            question=question,
            catalogue_version=self._items.version,
            admission=arrays[ADMISSION][user] if ADMISSION in arrays else NEVER_LATE,
        )

    def _in_bundle(self, events: History) -> History:
        """Events in the bundle's own rows, which are all that the policy knows."""
        known = replace(events, item_row_N=self._items.in_bundle_rows(events.item_row_N))
        return known[known.item_row_N != PADDING]

    def _lifelong(self, arrays: Arrays, known: History, request_time: int) -> History | None:
        asked = ASKED_OUTPUTS not in arrays or SEALED_LIFELONG.encode() in arrays[ASKED_OUTPUTS]
        if self._ranker_config is None or not asked:
            return None
        return latest_rows(known, request_time, self._ranker_config)

    def _stored(self, arrays: Arrays) -> list[Events]:
        """The histories of all users of a request; nothing where it brings them along."""
        if "HISTORY_ITEM_IDS" in arrays:
            return []
        users = arrays["USER_ID"][:, 0].tolist()
        if self._store is None or _is_canary(arrays):
            return [np.empty(0, EVENT) for _ in users]
        return self._store.read_all(users)

    def _sent(self, arrays: Arrays, user: int) -> Events:
        item_id = arrays["HISTORY_ITEM_IDS"][user]
        events = np.zeros(int((item_id != PADDING).sum()), EVENT)
        events["item_id"] = item_id[: len(events)]
        events["actions"] = arrays["HISTORY_ACTIONS"][user, : len(events)]
        events["timestamp"] = arrays["HISTORY_TIMESTAMPS"][user, : len(events)]
        if "HISTORY_SURFACES" in arrays:
            events["surface"] = arrays["HISTORY_SURFACES"][user, : len(events)]
        return events

    def _left_out(self, arrays: Arrays, user: int, events: History) -> Int64s:
        row = events.item_row_N if self._exclude_seen else np.empty(0, np.int64)
        if "EXCLUDE_ITEM_IDS" in arrays:
            row = np.concatenate([row, self._items.rows_of(arrays["EXCLUDE_ITEM_IDS"][user])])
        known: Int64s = np.unique(row[row != PADDING])
        return known


def latest_rows(history: History, request_time: int, limits: Limits) -> History:
    """Return the latest events and impressions up to a request, as many as are read, oldest first."""
    before = history[: int(np.searchsorted(history.timestamp_N, request_time, side="right"))]
    is_event_N = before.actions_N != 0
    # Each row's place among those of its kind, counted from the end.
    event_N, impression_N = (kind_N[::-1].cumsum()[::-1] for kind_N in (is_event_N, ~is_event_N))
    return before[np.where(is_event_N, event_N <= limits.max_events, impression_N <= limits.max_impressions)]


def _is_canary(arrays: Arrays) -> bool:
    """Whether the launcher tries the server: a store that is away on another host stands for no dead node."""
    canary = CANARY.encode()
    names = arrays["USER_ID"][0, 0], arrays[REQUEST_ID][0, 0] if REQUEST_ID in arrays else b""
    return names == (canary, canary)


def _scalar(arrays: Arrays, name: str, user: int, default: int) -> int:
    return int(arrays[name][user, 0]) if name in arrays else default


def _sealed(row: Assembled, history: History) -> bytes:
    """One of a user's two histories."""
    return SealedHistory(
        history=history, request_time=row.request_time, surface=row.surface, owner=row.owner
    ).to_bytes()
