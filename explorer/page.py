"""The page: what is chosen on the left, the history and every server's answer beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import streamlit as st
from unipinrec_client import Event, PolicyDecision, RecommendRequest
from unipinrec_client.catalogue import Catalogue

from experiments.frontier_page import frontier_html
from explorer import cards
from explorer.bundles import BundleFacts, Bundles
from explorer.choices import Excluded, Weights
from explorer.histories import Histories
from explorer.servers import Answer, Refusal, Server
from unipinrec.models.policy.card import PolicyCard

SHOWN_EVENTS = 20
MOST_RESULTS = 50
SENT, STORED = "the one shown here", "the server's stored one"

FRONTIER_HEIGHT = 780
"""Pixels of the chart with its title, choices and legend."""

Asked = tuple[Server, Answer | Refusal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explorer:
    """What one page is about."""

    servers: tuple[Server, ...]
    """One, or two to compare."""
    bundles: Bundles
    histories: Histories | None
    """None: users are not listed, and their histories not shown."""

    def names_of(self, answer: Answer) -> tuple[Catalogue, BundleFacts | None]:
        """Return the names for an answer, of its bundle if it is known, and what else is known of that."""
        facts = self.bundles.of(answer.response.bundle_id)
        if facts:
            return facts.catalogue, facts
        return self.histories.catalogue if self.histories else Catalogue(), None


def draw(explorer: Explorer) -> None:
    """Draw the page as it is after the latest change, and ask the servers for it."""
    st.set_page_config(page_title="UniPinRec explorer", layout="wide")
    st.html(cards.STYLE)
    st.html(
        '<div class="ex-title">UniPinRec explorer</div>'
        '<div class="ex-sub">What a user did, what is recommended, and how the answer came about.</div>'
    )
    with st.sidebar:
        user_id = _user(explorer.histories)
        events = explorer.histories.of(user_id) if explorer.histories and user_id else None
        sent = events is not None and st.radio("Ask with the history", (SENT, STORED)) == SENT
        results = st.slider("Results", 1, MOST_RESULTS, 10, key="results")
        weights = st.container()
    if not user_id:
        st.info("Paste a user id on the left.")
        return
    request = _request(user_id, events, sent=sent, results=results)
    asked = [(server, server.ask(request)) for server in explorer.servers]
    first = next((answer for _, answer in asked if isinstance(answer, Answer)), None)
    with weights:
        _weights(explorer, first)
        _excluded(explorer, first)
    columns = st.columns([3, *[5 for _ in asked]], gap="medium")
    with columns[0]:
        names = explorer.names_of(first)[0] if first else explorer.histories and explorer.histories.catalogue
        _history(user_id, events, names or Catalogue(), sent=sent)
    for place, (column, (server, answer)) in enumerate(zip(columns[1:], asked, strict=True)):
        beside = first if place and first is not answer else None
        with column:
            _answered(explorer, place, server, answer, beside)
    for place, (_, answer) in enumerate(asked):
        _frontier(explorer, place, answer)


def _user(histories: Histories | None) -> str:
    listed = histories.listed if histories else []
    chosen = st.selectbox(
        "User",
        listed,
        index=0 if listed else None,
        accept_new_options=True,
        placeholder="Pick or paste an id",
    )
    return (chosen or "").strip()


def _request(user_id: str, events: Sequence[Event] | None, *, sent: bool, results: int) -> RecommendRequest:
    actions = st.session_state.get("actions", 0)
    return RecommendRequest(
        user_id=user_id,
        history=events if sent else None,
        # A dataset may be years old, and what is recommended depends on how long ago the last event was.
        request_time=events[-1].timestamp if events else None,
        num_results=results,
        utility_weights=Weights("utility").given(actions),
        outcome_weights=Weights("outcome").given(actions),
        exclude_item_ids=Excluded().item_ids,
    )


def _weights(explorer: Explorer, answer: Answer | None) -> None:
    state = st.session_state
    if answer:
        names, facts = explorer.names_of(answer)
        used = answer.response.utility_weights
        state["actions"], state["action-names"] = len(used), names.action_names(len(used))
        state["used"] = used, facts.manifest.defaults.outcome_weights if facts else (0.0,) * len(used)
    if "used" not in state:
        return
    utility, outcome = state["used"]
    st.subheader("Utility weights", help="What a probability of each action adds to the score.")
    Weights("utility").draw(state["action-names"], utility)
    st.subheader(
        "Outcome weights", help="Share of the retrieval budget that aims at each action; all 0: none."
    )
    Weights("outcome").draw(state["action-names"], outcome)


def _excluded(explorer: Explorer, answer: Answer | None) -> None:
    excluded = Excluded()
    if not excluded.item_ids:
        return
    names = explorer.names_of(answer)[0] if answer else Catalogue()
    st.multiselect(
        "Left out",
        excluded.item_ids,
        key=Excluded.KEY,
        format_func=lambda item_id: names.title(item_id) or f"item {item_id}",
    )


def _history(user_id: str, events: Sequence[Event] | None, names: Catalogue, *, sent: bool) -> None:
    st.html(cards.heading(f"User {user_id}"))
    if events is None:
        st.caption(
            "The page has no history of this user; the server answers by the one that it has stored, and a "
            "user whom it does not know as a new one."
        )
        return
    st.caption(
        f"latest {min(len(events), SHOWN_EVENTS)} of {len(events):,} events of the dataset, "
        + ("sent with the request" if sent else "the server answers by its own")
        + "; asked at the time of the last one"
    )
    st.html(cards.history(events[-SHOWN_EVENTS:], names))


def _answered(
    explorer: Explorer, place: int, server: Server, answer: Answer | Refusal, beside: Answer | None
) -> None:
    st.html(cards.heading(f"Recommended by {server.url}"))
    if isinstance(answer, Refusal):
        st.error(answer.sentence)
        return
    names, facts = explorer.names_of(answer)
    st.html(cards.pills(cards.facts(answer)))
    _stages(server, answer)
    if answer.response.policy:
        _policy(place, answer.response.policy, facts)
    if not answer.response.recommendations:
        st.warning("Nothing is left to recommend.")
    with st.container(gap="xsmall"):
        _cards(place, answer, beside, names, facts)


def _cards(
    place: int, answer: Answer, beside: Answer | None, names: Catalogue, facts: BundleFacts | None
) -> None:
    left = beside.response.recommendations if beside else ()
    rank_on_the_left = {item.item_id: f"rank {rank}" for rank, item in enumerate(left, start=1)}
    for rank, item in enumerate(answer.response.recommendations, start=1):
        found_by = facts.found_by(item.retrieved_by) if facts else f"query embedding {item.retrieved_by}"
        notes = [f"found by {found_by}"]
        if beside:
            notes.append(f"on the left: {rank_on_the_left.get(item.item_id, 'not there')}")
        card, button = st.columns([14, 1], gap="small", vertical_alignment="center")
        card.html(cards.recommendation(rank, item, names, notes))
        button.button(
            "✕",
            key=f"out-{place}-{item.item_id}",
            help="Leave this item out",
            type="tertiary",
            on_click=Excluded().add,
            args=(item.item_id,),
        )


def _stages(server: Server, answer: Answer) -> None:
    if not answer.stages:
        st.caption(
            "The time of each stage is read from Triton's metrics, which do not answer at "
            f"{server.metrics_url}."
            if server.metrics_url
            else "Open the page with --metrics-url for the time of each stage."
        )
        return
    st.html(cards.stages(answer))
    if answer.counted > 1:
        st.caption(f"Stages: mean of the {answer.counted} requests that the server answered meanwhile.")


def _policy(place: int, decision: PolicyDecision, facts: BundleFacts | None) -> None:
    st.caption(cards.told_policy(decision))
    if facts is None or facts.card is None or facts.card.evidence is None:
        return
    st.toggle("What other operating points would bring", key=f"frontier-{place}")


def _frontier(explorer: Explorer, place: int, answer: Answer | Refusal) -> None:
    """The sweep of an answer's policy, where a visitor wants to see it."""
    if not st.session_state.get(f"frontier-{place}") or not isinstance(answer, Answer):
        return
    _, facts = explorer.names_of(answer)
    if facts and facts.card and facts.card.evidence:
        # Streamlit's own charts take no table in CSV. A bundle is trusted, and so is a page of its card.
        st.iframe(_frontier_page(facts.card.model_dump_json()), height=FRONTIER_HEIGHT)


@lru_cache(maxsize=4)
def _frontier_page(card: str) -> str:
    return frontier_html(PolicyCard.model_validate_json(card))
