"""What bad input gets: an answer where one can be given, else an error that names tensor, value and range."""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Queue
from typing import Any, NoReturn

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from numpy.typing import NDArray
from unipinrec_client import (
    GrpcClient,
    HttpClient,
    InvalidRequestError,
    RecommendError,
    RecommendRequest,
)

from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import ITEMS, NOW, USERS, Exported
from tests.served.exchange import exchange
from tests.served.metrics import metric
from tests.served.nodes import call, floats, inputs_of, int64
from tests.served.requests import events_of, stored
from tests.support.answers import Answer, Likeness, assert_alike
from unipinrec.data.window import window_start

COLD = RecommendRequest(user_id="nobody", request_time=NOW)


def history(
    items: tuple[int, ...] = (1000, 1003),
    actions: tuple[int, ...] = (1, 2),
    times: tuple[int, ...] = (100, 200),
) -> dict[str, NDArray[np.int64]]:
    return {
        "HISTORY_ITEM_IDS": int64(*items),
        "HISTORY_ACTIONS": int64(*actions),
        "HISTORY_TIMESTAMPS": int64(*times),
    }


REFUSED: dict[str, tuple[Mapping[str, NDArray[Any]], str]] = {
    "arrays of different lengths": (
        history(actions=(1, 2, 3)),
        "HISTORY_ACTIONS has 3 values; allowed: 2, as many as HISTORY_ITEM_IDS",
    ),
    "surfaces of another length": (
        history() | {"HISTORY_SURFACES": int64(0)},
        "HISTORY_SURFACES has 1 values; allowed: 2, as many as HISTORY_ITEM_IDS",
    ),
    "two of three": (
        {"HISTORY_ITEM_IDS": int64(1000), "HISTORY_ACTIONS": int64(1)},
        "HISTORY_TIMESTAMPS is missing; allowed: HISTORY_ITEM_IDS, HISTORY_ACTIONS, HISTORY_TIMESTAMPS "
        "all three or none",
    ),
    "surfaces alone": (
        {"HISTORY_SURFACES": int64(0)},
        "HISTORY_SURFACES is given without HISTORY_ITEM_IDS; allowed: beside a history only",
    ),
    "timestamps not ascending": (
        history(times=(200, 100)),
        "HISTORY_TIMESTAMPS is 100 at user 0, event 1; allowed: ascending, at least 200",
    ),
    "negative timestamp": (
        history(times=(-5, 100)),
        "HISTORY_TIMESTAMPS is -5 at user 0, event 0; allowed: 0 to 253402300799",
    ),
    "action bits that do not exist": (
        history(actions=(1, 8)),
        "HISTORY_ACTIONS is 8 at user 0, event 1; allowed: 0 to 7",
    ),
    "padding in the middle": (
        history(items=(-1, 1000)),
        "HISTORY_ITEM_IDS is -1 before another item; allowed: padding at the end only",
    ),
    "negative weight": (
        {"UTILITY_WEIGHTS": floats(1, -0.5, 0)},
        "UTILITY_WEIGHTS is -0.5 at user 0, action 1; allowed: 0 to 1e+30",
    ),
    "NaN weight": (
        {"OUTCOME_WEIGHTS": floats(1, 0, float("nan"))},
        "OUTCOME_WEIGHTS is nan at user 0, action 2; allowed: 0 to 1e+30",
    ),
    "too few weights": (
        {"UTILITY_WEIGHTS": floats(1)},
        "UTILITY_WEIGHTS has 1 values; allowed: 3, one for each action",
    ),
    "no retrieval budget": (
        {"OUTCOME_WEIGHTS": floats(0, 0, 0)},
        "OUTCOME_WEIGHTS is all 0 at user 0; allowed: at least one above 0",
    ),
    "no results wanted": ({"NUM_RESULTS": int64(0)}, "NUM_RESULTS is 0 at user 0; allowed: 1 to 128"),
    "too many results wanted": (
        {"NUM_RESULTS": int64(5000)},
        "NUM_RESULTS is 5000 at user 0; allowed: 1 to 128",
    ),
    "unknown surface": ({"SURFACE": int64(2)}, "SURFACE is 2 at user 0; allowed: 0 to 1"),
    "request before 1970": (
        {"REQUEST_TIME": int64(-1)},
        "REQUEST_TIME is -1 at user 0; allowed: 0 to 253402300799",
    ),
    "too long a history": (
        {name: np.ones((1, 8193), np.int64) for name in history()},
        "HISTORY_ITEM_IDS has 8193 values; allowed: 0 to 8192",
    ),
    "too many exclusions": (
        {"EXCLUDE_ITEM_IDS": np.ones((1, 1025), np.int64)},
        "EXCLUDE_ITEM_IDS has 1025 values; allowed: 0 to 1024",
    ),
    "too long a user id": (
        {"USER_ID": np.array([[b"x" * 257]], np.object_)},
        "USER_ID has 257 bytes; allowed: 0 to 256",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_grpc_refuses_with_invalid_argument(server: EmbeddedServer, case: str) -> None:
    tensors, message = REFUSED[case]
    with pytest.raises(triton.InferenceServerException) as error:
        call(server, "recommend", {"USER_ID": np.array([[b"user-1"]], np.object_)} | dict(tensors))
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in error.value.message()


@pytest.mark.parametrize("case", REFUSED)
def test_http_refuses_with_400(server: EmbeddedServer, case: str) -> None:
    tensors, message = REFUSED[case]
    inputs = inputs_of({"USER_ID": np.array([[b"user-1"]], np.object_)} | dict(tensors), triton_http)
    client = triton_http.InferenceServerClient(server.http_url.removeprefix("http://"))
    with client, pytest.raises(triton.InferenceServerException) as error:
        client.infer("recommend", inputs)
    assert error.value.status() == "400"
    assert message in error.value.message()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"NUM_RESULTS": [2**32 + 3]}, "NUM_RESULTS is 4294967299 at user 0; allowed: 1 to 128"),
        ({"SURFACE": [2**32]}, "SURFACE is 4294967296 at user 0; allowed: 0 to 1"),
        (
            {name: [1000] for name in history()} | {"HISTORY_ACTIONS": [1], "HISTORY_SURFACES": [2**32]},
            "HISTORY_SURFACES is 4294967296 at user 0, event 0; allowed: 0 to 1",
        ),
    ],
)
def test_json_numbers_beyond_32_bits_are_refused_by_their_value(
    server: EmbeddedServer, inputs: dict[str, list[int]], message: str
) -> None:
    tensors = [json_input(name, "INT64", [values]) for name, values in inputs.items()]
    status, answer = post(server, json_input("USER_ID", "BYTES", [["user-1"]]), *tensors)
    assert status == 400
    assert message in answer["error"]


def test_json_answers_hold_no_number_that_json_has_not(server: EmbeddedServer) -> None:
    """The first user has three items left, the second none."""
    catalogue = [1000 + 3 * row for row in range(ITEMS)]
    excluded = [catalogue[3:] + [-1] * 3, catalogue]
    status, answer = post(
        server,
        json_input("USER_ID", "BYTES", [["nobody"], ["no one"]]),
        json_input("EXCLUDE_ITEM_IDS", "INT64", excluded),
    )
    assert status == 200
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["ITEM_IDS"]["shape"] == [2, 3]
    assert sorted(outputs["ITEM_IDS"]["data"][:3]) == catalogue[:3]
    assert outputs["ITEM_IDS"]["data"][3:] == [-1] * 3
    assert all(0 <= score <= 1.5 for score in outputs["SCORES"]["data"][:3])
    assert outputs["SCORES"]["data"][3:] == [pytest.approx(-3.4028234663852886e38, rel=1e-12)] * 3


def json_input(name: str, datatype: str, rows: list[list[Any]]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(rows), len(rows[0])], "data": rows}


def post(server: EmbeddedServer, *inputs: dict[str, Any]) -> tuple[int, Any]:
    """Status and body of an inference in JSON, read as strictly as the standard has it."""
    url = f"{server.http_url}/v2/models/recommend/infer"
    status, body = exchange("POST", url, json.dumps({"inputs": inputs}))
    return status, json.loads(body, parse_constant=not_json)


def not_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def test_more_than_16_users_are_refused(server: EmbeddedServer) -> None:
    with GrpcClient(server.grpc_url) as client, pytest.raises(InvalidRequestError, match=r"<= 16"):
        client.recommend_many([COLD] * 17)


@pytest.mark.parametrize("make", [GrpcClient, HttpClient])
def test_the_typed_client_raises_its_own_error(server: EmbeddedServer, make: type) -> None:
    address = server.grpc_url if make is GrpcClient else server.http_url
    with make(address) as client, pytest.raises(InvalidRequestError, match=r"NUM_RESULTS is 5000 at user 0"):
        client.recommend(RecommendRequest(user_id="42", num_results=5000))


@pytest.mark.parametrize("make", [GrpcClient, HttpClient])
def test_the_ensemble_of_a_model_that_the_bundle_lacks_is_not_served(
    server: EmbeddedServer, make: type
) -> None:
    assert (server.ensembles, server.not_served) == (["recommend"], ["recommend_full"])
    assert server.node_processes("l2") == []
    address = server.grpc_url if make is GrpcClient else server.http_url
    with make(address, model="recommend_full") as client:
        assert not client.ready()
        with pytest.raises(
            RecommendError, match=r"'recommend_full' is not found; .* holds a second ranker, and append_"
        ):
            client.recommend(COLD)


def test_an_unknown_user_without_history_gets_cold_start_results(
    server: EmbeddedServer, promised: Likeness
) -> None:
    with GrpcClient(server.grpc_url) as client:
        cold = client.recommend(COLD)
        empty = client.recommend(RecommendRequest(user_id="user-1", history=(), request_time=NOW))
    assert len(cold.recommendations) == 50
    assert_alike([cold], [empty], promised)


def test_unknown_items_are_ignored_and_counted(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    known = events_of(exported, 9)
    strange = [replace(event, item_id=77_000_000 + event.item_id) for event in known]
    mixed = [event for pair in zip(known, strange, strict=True) for event in pair]
    before = metric(server, "unipinrec_unknown_items_total", node="history")
    with GrpcClient(server.grpc_url) as client:
        ignored = client.recommend(RecommendRequest(user_id="a", history=mixed, request_time=NOW))
        assert metric(server, "unipinrec_unknown_items_total", node="history") == before + len(strange)
        without = client.recommend(RecommendRequest(user_id="a", history=known, request_time=NOW))
        nothing_known = client.recommend(RecommendRequest(user_id="a", history=strange, request_time=NOW))
        cold = client.recommend(COLD)
    assert_alike([ignored, nothing_known], [without, cold], promised)


def test_of_a_long_history_the_most_recent_events_are_used(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    config = exported.model.config
    longest = max(range(USERS), key=lambda user: len(events_of(exported, user)))
    events = events_of(exported, longest)
    start = window_start(len(events), config.max_history, config.window_block)
    assert start > 0
    others = list({event.item_id for event in events[:start]})
    with GrpcClient(server.grpc_url) as client:
        whole = client.recommend(RecommendRequest(user_id="a", history=events, request_time=NOW))
        recent = client.recommend(
            RecommendRequest(user_id="a", history=events[start:], request_time=NOW, exclude_item_ids=others)
        )
    assert_alike([whole], [recent], promised)


def test_excluded_and_seen_items_never_come_back(server: EmbeddedServer, exported: Exported) -> None:
    seen = {event.item_id for event in events_of(exported, 4)}
    with GrpcClient(server.grpc_url) as client:
        first = client.recommend(stored(exported, 4))
        excluded = [item.item_id for item in first.recommendations[:5]]
        request = RecommendRequest(
            user_id=stored(exported, 4).user_id, request_time=NOW, num_results=128, exclude_item_ids=excluded
        )
        rest = {item.item_id for item in client.recommend(request).recommendations}
    assert len(rest) == 128
    assert rest.isdisjoint(excluded)
    assert rest.isdisjoint(seen)


def test_fewer_candidates_than_asked_give_fewer_results(server: EmbeddedServer) -> None:
    catalogue = [1000 + 3 * row for row in range(ITEMS)]
    with GrpcClient(server.grpc_url) as client:
        few = client.recommend(
            RecommendRequest(user_id="nobody", exclude_item_ids=catalogue[3:], num_results=50)
        )
        none = client.recommend(RecommendRequest(user_id="nobody", exclude_item_ids=catalogue))
    assert {item.item_id for item in few.recommendations} == set(catalogue[:3])
    assert none.recommendations == ()


def test_in_a_batch_only_the_bad_request_fails(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    bad = RecommendRequest(user_id="user-3", num_results=5000)
    with GrpcClient(server.grpc_url) as client, ThreadPoolExecutor(16) as pool:
        expected = [Answer.served(client.recommend(stored(exported, user))) for user in range(16)]

        def ask(index: int) -> bool:
            if index % 16 == 7:
                with pytest.raises(InvalidRequestError):
                    client.recommend(bad)
                return True
            answer = Answer.served(client.recommend(stored(exported, index % 16)))
            return not promised.difference(answer, expected[index % 16])

        assert all(pool.map(ask, range(320)))


def test_more_load_than_capacity_is_refused_at_once(server: EmbeddedServer) -> None:
    """Of three thousand requests at once each is answered, or UNAVAILABLE before it costs anything."""
    flood = 3_000
    outcomes: Queue[Exception | None] = Queue()

    def note(**outcome: Exception | None) -> None:
        outcomes.put(outcome["error"])

    user = triton.InferInput("USER_ID", [1, 1], "BYTES")
    user.set_data_from_numpy(np.array([[b"user-5"]], np.object_))
    with triton.InferenceServerClient(server.grpc_url) as client:
        for _ in range(flood):
            client.async_infer("recommend", [user], callback=note)
        errors = [outcomes.get(timeout=120) for _ in range(flood)]
    refused = [error for error in errors if error is not None]
    assert {error.status() for error in refused} == {"StatusCode.UNAVAILABLE"}
    assert all(re.search("users are ahead|deadline passed", str(error)) for error in refused)
    assert len(refused) < flood
    with GrpcClient(server.grpc_url) as client:
        assert client.recommend(COLD).kv_source == "prefix"
