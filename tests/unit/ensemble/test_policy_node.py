"""From the request to the weights of its answer, with `history`, `policy` and `scoring` in one process."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from unipinrec_client import RecommendRequest

from ensemble.graph import Tensors
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import InvalidInputError
from ensemble.nodes.history import HistoryNode
from ensemble.nodes.policy import PolicyNode
from ensemble.nodes.utility import Choice, UtilityChooser, WeightRequest
from ensemble.policy.decision_table import Decision, DecisionTable
from ensemble.policy.exploring import explored_arm
from ensemble.policy.request_channel import BUSY, DEAD, NOTHING_ASKED, Ticket
from ensemble.settings import ServingSettings
from tests.conftest import NOW, Exported
from tests.support.node_chain import inline, made_up, stored
from tests.support.policies import PolicyExported, expected_arms, with_policy
from tests.support.seals import contents_of
from unipinrec.models.policy.card import CARD

USERS = list(range(40))
BUDGET_MS = 40


@pytest.fixture(scope="module")
def policy(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> PolicyExported:
    return with_policy(exported, tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def policy_bundle(policy: PolicyExported) -> LoadedBundle:
    return LoadedBundle.open(policy.bundle)


@pytest.fixture
def settings(tmp_path: Path) -> ServingSettings:
    return ServingSettings(
        histories=tmp_path / "none",
        runtime_dir=tmp_path / "runtime",
        policy_alphas=tmp_path / "alphas.json",
        policy_budget_ms=BUDGET_MS,
    )


@pytest.fixture
def policy_node(policy_bundle: LoadedBundle, settings: ServingSettings) -> Iterator[PolicyNode]:
    node = PolicyNode(policy_bundle, settings)
    yield node
    node.close()


@pytest.fixture
def choose(policy_bundle: LoadedBundle, settings: ServingSettings) -> Callable[..., Choice]:
    """Chooses the weights of a request of which this much is known."""
    registry = CollectorRegistry()
    chooser = UtilityChooser(policy_bundle, settings, registry)

    def choose(ticket: Ticket = NOTHING_ASKED, *, given: Any = None, request_id: bytes = b"") -> Choice:
        return chooser.choose(WeightRequest(given, ticket, request_id, 0))

    return choose


def asked(number: int = 5, ago_ms: float = 0.0) -> Ticket:
    return Ticket(number, time.monotonic_ns() - round(ago_ms * 1e6))


def put(settings: ServingSettings, bundle: LoadedBundle, number: int, decision: Decision) -> None:
    DecisionTable(settings.runtime_dir, bundle.id).put(number, decision)


@pytest.mark.usefixtures("policy_node")
def test_history_asks_and_scoring_finds_what_offline_pytorch_chooses(
    exported: Exported, policy: PolicyExported, policy_bundle: LoadedBundle, settings: ServingSettings,
    choose: Callable[..., Choice],
) -> None:  # fmt: skip
    history = HistoryNode(policy_bundle, settings.model_copy(update={"histories": exported.histories}))
    requests = stored(exported, USERS)
    made = history.pack(history.run(history.parse(requests)))
    history.close()
    sent = [
        RecommendRequest(user_id=user_id.decode(), request_time=NOW, surface=surface)
        for user_id, surface in zip(
            requests["USER_ID"][:, 0], requests["SURFACE"][:, 0].tolist(), strict=True
        )
    ]
    right = expected_arms(policy, exported, sent)
    tickets = contents_of(policy_bundle.id, made, "POLICY_TICKET")
    choices = [choose(Ticket.from_bytes(ticket)) for ticket in tickets]
    for choice, best in zip(choices, right, strict=True):
        arm = choice.told["arm"]
        assert choice.source == "chosen"
        assert arm in best
        assert choice.weight_A.tolist() == policy.card.arms.weights()[arm].astype(np.float32).tolist()
        assert json.loads(choice.to_json())["policy"] == policy.card.fingerprint[:12]


@pytest.mark.usefixtures("policy_node")
def test_nothing_is_asked_where_the_caller_says_what_an_action_is_worth(
    exported: Exported, policy_bundle: LoadedBundle, settings: ServingSettings
) -> None:
    history = HistoryNode(policy_bundle, settings)
    request = inline(exported, made_up(1, 20), 0)
    weighed = {**request, "UTILITY_WEIGHTS": np.ones((1, 3), np.float32)}
    tickets = [history.run(history.parse(tensors))[0].ticket for tensors in (request, weighed)]
    history.close()
    assert tickets[0].number > 0
    assert tickets[1] == NOTHING_ASKED


def test_history_of_a_bundle_without_a_policy_asks_nothing(
    exported: Exported, history_node: HistoryNode
) -> None:
    (row,) = history_node.run(history_node.parse(inline(exported, made_up(1, 20), 0)))
    assert row.ticket == NOTHING_ASKED


def test_given_weights_count_before_an_exploration_and_that_before_a_choice(
    policy: PolicyExported, policy_bundle: LoadedBundle, settings: ServingSettings
) -> None:
    explores = settings.model_copy(update={"explore_share": 1.0, "explore_seed": 3})
    chooser = UtilityChooser(policy_bundle, explores, CollectorRegistry())
    put(settings, policy_bundle, 5, Decision("decided", arm=9))
    given = np.float32([3, 2, 1])
    assert chooser.choose(WeightRequest(given, asked(), b"id", 0)) == Choice(given, "given")
    arms = len(policy.card.arms)
    for place in range(3):
        arm = explored_arm(b"id", place, share=1.0, seed=3, arms=arms)
        choice = chooser.choose(WeightRequest(None, asked(), b"id", place))
        assert (choice.source, choice.told) == (
            "explored",
            {"arm": arm, "propensity": 1 / arms, "explored": True},
        )
        assert choice.weight_A.tolist() == policy.card.arms.weights()[arm].astype(np.float32).tolist()
    # Without an id, nobody could find the request in a log.
    assert chooser.choose(WeightRequest(None, asked(), b"", 0)).source == "chosen"


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (Decision("failed"), "failed"),
        (Decision("invalid"), "invalid"),
        (Decision("withheld"), "withheld"),
        (Decision("decided", arm=50), "invalid"),
        (Decision("decided", cohort=9), "invalid"),
    ],
)
def test_what_is_no_decision_leaves_the_static_weights(
    exported: Exported, policy_bundle: LoadedBundle, settings: ServingSettings,
    choose: Callable[..., Choice], decision: Decision, reason: str,
) -> None:  # fmt: skip
    put(settings, policy_bundle, 5, decision)
    choice = choose(asked())
    assert (choice.source, choice.told) == ("default", {"fallback": reason})
    assert tuple(choice.weight_A) == exported.dataset.info.utility_weights


def test_a_policy_that_is_not_there_or_has_too_much_to_do_is_not_waited_for(
    choose: Callable[..., Choice],
) -> None:
    began = time.monotonic()
    reasons = [choose(Ticket(number, time.monotonic_ns())).told["fallback"] for number in (DEAD, BUSY)]
    assert reasons == ["dead", "busy"]
    assert time.monotonic() - began < BUDGET_MS / 1e3


def test_a_decision_is_waited_for_within_the_budget_and_not_again_for_a_while_after_one_was_late(
    choose: Callable[..., Choice],
) -> None:
    for least_s, most_s in ((BUDGET_MS / 1e3 * 0.8, 1.0), (0.0, BUDGET_MS / 1e3 * 0.8)):
        began = time.monotonic()
        assert choose(asked(8)).told == {"fallback": "late"}
        assert least_s <= time.monotonic() - began < most_s


def test_what_was_asked_longer_ago_than_the_budget_is_not_waited_for(choose: Callable[..., Choice]) -> None:
    began = time.monotonic()
    assert choose(asked(8, ago_ms=2 * BUDGET_MS)).told == {"fallback": "late"}
    assert time.monotonic() - began < BUDGET_MS / 1e3


def test_a_ticket_from_the_future_makes_nobody_wait_for_it(choose: Callable[..., Choice]) -> None:
    began = time.monotonic()
    assert choose(Ticket(8, 2**62)).told == {"fallback": "late"}
    assert time.monotonic() - began < 1.0


def test_the_node_says_how_it_is_after_a_decision_of_its_own(
    policy_node: PolicyNode, policy: PolicyExported
) -> None:
    (status,) = tell(policy_node, {"check": True})
    assert (status["policy"], status["arms"]) == (policy.card.fingerprint, 50)
    policy_node._stopped.set()
    policy_node._thread.join()
    assert tell(policy_node, {}) == [status]
    with pytest.raises(RuntimeError, match="no decision in 1 s"):
        tell(policy_node, {"check": True})


def test_a_bundle_without_a_policy_has_no_answer_to_commands(
    loaded: LoadedBundle, settings: ServingSettings
) -> None:
    node = PolicyNode(loaded, settings)
    with pytest.raises(InvalidInputError, match="bundle has none"):
        tell(node, {})
    node.close()
    assert not (settings.runtime_dir / "policy").exists()


def test_a_policy_whose_card_has_no_alphas_withholds(
    exported: Exported, settings: ServingSettings, tmp_path: Path
) -> None:
    bundle = LoadedBundle.open(with_policy(exported, tmp_path / "withheld", chosen=None).bundle)
    assert json.loads((bundle.folder / "policy" / CARD).read_text())["chosen"] is None
    node, chooser = PolicyNode(bundle, settings), UtilityChooser(bundle, settings, CollectorRegistry())
    history = HistoryNode(bundle, settings)
    (row,) = history.run(history.parse(inline(exported, made_up(1, 20), 0)))
    choice = chooser.choose(WeightRequest(None, row.ticket, b"", 0))
    for each in (history, node):
        each.close()
    assert (choice.source, choice.told) == ("default", {"fallback": "withheld"})


def test_scoring_counts_where_weights_came_from_and_why_not_from_the_policy(
    policy_bundle: LoadedBundle, settings: ServingSettings
) -> None:
    registry = CollectorRegistry()
    chooser = UtilityChooser(policy_bundle, settings, registry)
    put(settings, policy_bundle, 5, Decision("decided", arm=1, cohort=1, took_us=1_500))
    for number in (5, 5, DEAD):
        chooser.choose(WeightRequest(None, asked(number), b"", 0))

    def told(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert told("unipinrec_utility_source_total", source="chosen") == 2
    assert told("unipinrec_policy_fallbacks_total", reason="dead") == 1
    assert told("unipinrec_policy_fallbacks_total", reason="late") == 0
    assert told("unipinrec_policy_decisions_total", cohort="rest") == 2
    assert told("unipinrec_policy_seconds_sum") == pytest.approx(0.003)
    assert told("unipinrec_policy_alpha", cohort="core") == 0.6


def tell(node: PolicyNode, command: dict[str, Any]) -> list[dict[str, Any]]:
    tensors: Tensors = {"COMMAND": np.array([json.dumps(command).encode()], np.object_)}
    packed = node.pack(node.run(node.parse(tensors)))
    return [json.loads(status) for status in packed["STATUS"]]
