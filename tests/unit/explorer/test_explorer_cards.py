"""What the explorer writes into its page."""

import re

import pytest
from unipinrec_client import Event, PolicyDecision, Recommendation, RecommendResponse
from unipinrec_client.catalogue import Catalogue

from explorer import cards
from explorer.servers import Answer
from loadtest.watch import NodeTime

HOSTILE = "<script>alert('1')</script>"
NAMES = Catalogue(actions=("click", HOSTILE), titles={"7": HOSTILE})


def item(*probabilities: float) -> Recommendation:
    return Recommendation(item_id=7, score=1.25, action_probabilities=probabilities, retrieved_by=0)


def test_no_text_of_data_is_taken_for_html() -> None:
    event = Event(item_id=7, actions=0b11, timestamp=0)
    for written in (
        cards.recommendation(1, item(0.5, 0.25), NAMES, [HOSTILE]),
        cards.history([event], NAMES),
        cards.pills([HOSTILE]),
        cards.heading(HOSTILE),
    ):
        assert "<script" not in written
        assert "&lt;script&gt;" in written


def test_a_recommendation_has_a_bar_for_every_action() -> None:
    written = cards.recommendation(3, item(0.5, 0.0625), NAMES, ["found by click, now"])
    assert re.findall(r"width: ([0-9.]+)%", written) == ["50.0", "6.2"]
    assert "50.0%</span>" in written
    assert "item 7 · found by click, now" in written


def test_events_are_shown_latest_first_with_what_was_done_and_when() -> None:
    events = [
        Event(item_id=8, actions=0, timestamp=0),
        Event(item_id=9, actions=0b101, timestamp=1_000_000_000),
    ]
    text = re.sub(r"<[^>]+>", " ", cards.history(events, Catalogue(actions=("click",))))
    assert " ".join(text.split()) == "item 9 click action 2 2001-09-09 item 8 shown 1970-01-01"


def test_stages_share_one_bar_by_their_time() -> None:
    response = RecommendResponse(
        user_id="u",
        recommendations=(),
        kv_source="prefix",
        bundle_id="b",
        utility_weights=(),
        utility_source="given",
    )
    times = {"history": NodeTime(0.0, 1.0), "retrieval": NodeTime(1.0, 2.0)}
    written = cards.stages(Answer(response=response, total_ms=5.0, stages=times, counted=1))
    assert re.findall(r"width: ([0-9.]+)%", written) == ["25.00", "75.00"]
    assert "retrieval 3.0 ms" in written


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (PolicyDecision(fallback="late"), "not used (late)"),
        (PolicyDecision(explored=True, arm=3), "Arm 3 of the policy's weights was drawn at random"),
        (
            PolicyDecision(policy="abc", alpha=0.3, cohort="core", revision=2, arm=5),
            "Alpha 0.3 of cohort core",
        ),
        (PolicyDecision(policy="abc"), "Alpha untold"),
    ],
)
def test_a_policys_decision_is_told_in_a_sentence(decision: PolicyDecision, said: str) -> None:
    assert said in cards.told_policy(decision)
