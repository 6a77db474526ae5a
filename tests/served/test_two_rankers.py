"""`recommend_full` of a real server: its answers, its limits, and that its ranker comes back when it dies."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner
from unipinrec_client import (
    Event,
    GrpcClient,
    HttpClient,
    InvalidRequestError,
    RecommendRequest,
    RetryPolicy,
)
from unipinrec_client.cli import app

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import canaries_of
from ensemble.server.watchdog import Watchdog
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import NOW, Exported, serving
from tests.served.nodes import kill
from tests.support.answers import Answer, Likeness, assert_alike
from tests.support.second_rankers import (
    RankerExported,
    acted_on,
    as_events,
    mixed,
    offline_full,
    with_second_ranker,
)
from tests.support.waiting import holds_within
from unipinrec.data.history import History
from unipinrec.models.unified.offline import OfflineRequest

FULL = "recommend_full"
LONGEST = 17_000
LENGTHS = [*range(0, 200, 8), 700, 4_000, LONGEST]
HEAL_S = 60.0
ONCE = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def ranker(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> RankerExported:
    return with_second_ranker(exported, tmp_path_factory.mktemp("ranker"), "transact-v2")


@pytest.fixture(scope="module")
def full(
    exported: Exported,
    ranker: RankerExported,
    profile: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EmbeddedServer]:
    """A server with a second ranker, and a store of users with impressions."""
    folder = tmp_path_factory.mktemp("full")
    with LmdbHistoryStore(folder / "histories", writable=True) as store:
        for user, length in enumerate(LENGTHS):
            store.append(f"mixed-{user}".encode(), as_events(exported, mixed(user, length)))
    with serving(
        replace(exported, bundle=ranker.bundle, histories=folder / "histories"),
        folder / "server.log",
        profile=profile,
        max_events=LONGEST,
    ) as server:
        yield server


def of_store(user: int, num_results: int = 20) -> RecommendRequest:
    return RecommendRequest(
        user_id=f"mixed-{user}", request_time=NOW, surface=user % 2, num_results=num_results
    )


def sent(exported: Exported, history: History, user: int = 0, num_results: int = 20) -> RecommendRequest:
    """The same with the history in the request."""
    rows = as_events(exported, history).tolist()
    events = [Event(item_id=i, actions=a, timestamp=t, surface=s) for i, a, t, s in rows]
    return replace(of_store(user, num_results), user_id="someone", history=events)


def test_answers_equal_offline_pytorch_stored_and_sent_over_grpc_and_http(
    full: EmbeddedServer, exported: Exported, ranker: RankerExported, promised: Likeness
) -> None:
    histories = [mixed(user, length) for user, length in enumerate(LENGTHS)]
    requests = [
        OfflineRequest(history=history, request_time=NOW, surface=user % 2)
        for user, history in enumerate(histories)
    ]
    expected = offline_full(exported, ranker, requests)
    with GrpcClient(full.grpc_url, model=FULL) as grpc, HttpClient(full.http_url, model=FULL) as http:
        for user, (history, right) in enumerate(zip(histories, expected, strict=True)):
            inline = sent(exported, history, user)
            for answer in (grpc.recommend(of_store(user)), grpc.recommend(inline), http.recommend(inline)):
                difference = promised.difference(Answer.served(answer), right)
                assert not difference, f"user {user}: {difference}"


def test_a_batch_equals_its_single_requests(full: EmbeddedServer, promised: Likeness) -> None:
    with GrpcClient(full.grpc_url, model=FULL) as client:
        users = [of_store(user, 1 + 4 * (user % 5)) for user in (*range(0, 26, 2), 25, 26, 27)]
        assert_alike(client.recommend_many(users), [client.recommend(user) for user in users], promised)


def test_recommend_of_the_same_server_sees_no_impressions_and_has_one_ranker(
    full: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    history = mixed(3, 120)
    with GrpcClient(full.grpc_url) as client:
        answers = [client.recommend(sent(exported, rows)) for rows in (history, acted_on(history))]
    assert_alike(answers[:1], answers[1:], promised)
    assert {item.first_action_probabilities for item in answers[0].recommendations} == {None}


def test_users_of_whom_little_is_known_are_answered(
    full: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    history = mixed(5, 80)
    shown_alone = history[history.actions_N == 0]
    with GrpcClient(full.grpc_url, model=FULL) as client:
        unknown = client.recommend(RecommendRequest(user_id="nobody", request_time=NOW, num_results=20))
        empty = client.recommend(sent(exported, history[:0]))
        shown = client.recommend(sent(exported, shown_alone))
    assert_alike([unknown], [empty], promised)
    assert len(shown.recommendations) == 20
    assert Answer.served(shown).items != Answer.served(empty).items


def test_what_is_not_allowed_is_refused_by_name(full: EmbeddedServer, exported: Exported) -> None:
    with GrpcClient(full.grpc_url, model=FULL) as client:
        longer = sent(exported, mixed(6, LONGEST + 1))
        message = f"HISTORY_ITEM_IDS has {LONGEST + 1} values; allowed: 0 to {LONGEST}"
        with pytest.raises(InvalidRequestError, match=message):
            client.recommend(longer)
        strange = replace(of_store(0), history=[Event(item_id=1000, actions=8, timestamp=1)])
        with pytest.raises(InvalidRequestError, match="HISTORY_ACTIONS is 8 at user 0, event 0"):
            client.recommend(strange)


def test_the_command_line_shows_both_rankers_probabilities(full: EmbeddedServer) -> None:
    arguments = ["--user", "mixed-7", "--model", FULL, "--url", full.grpc_url, "--request-time", str(NOW)]
    result = CliRunner().invoke(app, ["recommend", *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    (user,) = json.loads(result.stdout)["users"]
    with GrpcClient(full.grpc_url, model=FULL) as client:
        answer = client.recommend(replace(of_store(7, 10), surface=None))
    for shown, right in zip(user["recommendations"], answer.recommendations, strict=True):
        assert shown["item_id"] == right.item_id
        assert list(shown["action_probabilities"].values()) == pytest.approx(right.action_probabilities)
        first = list(shown["first_action_probabilities"].values())
        assert first == pytest.approx(right.first_action_probabilities)


def test_a_ranker_that_is_killed_is_loaded_again_while_one_ranker_answers_on(
    full: EmbeddedServer, promised: Likeness
) -> None:
    users, server_pid = [of_store(user) for user in (1, 9, 26)], full.pid
    lines: list[str] = []
    with (
        GrpcClient(full.grpc_url, model=FULL, timeout_s=5.0, retry=ONCE) as client,
        GrpcClient(full.grpc_url, retry=ONCE) as of_one_ranker,
    ):
        before = [client.recommend(user) for user in users]
        dead = full.node_processes("l2")
        first, second = dead

        def revived() -> bool:
            assert of_one_ranker.recommend(users[0]).recommendations
            again = " ".join(line for line in lines if "loaded again" in line)
            return all(f"{instance} died" in again for instance in ("l2_0_0", "l2_1_0"))

        # No canary tells: the second one dies while the first is loaded, and its process alone is seen.
        with Watchdog(full, canaries_of(full), report=lines.append, interval_s=2 * HEAL_S):
            kill([first])
            assert holds_within(5.0, lambda: len(full.node_processes("l2")) > 1, 0.02)
            kill([second])
            assert holds_within(HEAL_S, revived)
        after = [client.recommend(user) for user in users]
    assert_alike(after, before, promised)
    assert full.pid == server_pid
    assert len(full.node_processes("l2")) == len(dead)
    assert not set(full.node_processes("l2")) & set(dead)
