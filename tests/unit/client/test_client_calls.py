"""What all four clients do alike, each against a real server of its protocol that plays Triton's part."""

import math
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from unipinrec_client import (
    DeadlineExceededError,
    Event,
    GrpcClient,
    HttpClient,
    InvalidRequestError,
    RecommendError,
    RecommendRequest,
    UnavailableError,
)

from tests.support.triton_servers import BROKEN, INVALID, OVERLOADED, answer, expected, free_port
from tests.unit.client.calls import ALL, GRPC, ask, call


@pytest.fixture(params=ALL)
def kind(request):
    return request.param


@pytest.fixture
def server(request, kind):
    return request.getfixturevalue("grpc_server" if kind in GRPC else "http_server")


def status_of(server, kind_of_failure):
    status = server.statuses[kind_of_failure]
    return getattr(status, "name", str(status))


def test_a_request_arrives_and_its_answer_comes_back(server, kind):
    request = RecommendRequest(user_id="42", history=[Event(item_id=7, actions=5, timestamp=9)], surface=2)
    headers = {"X-Tenant": "a"}
    response = ask(kind, server.url, request, model="recommend_separate", headers=headers)

    assert response == expected("42", 42)
    assert headers == {"X-Tenant": "a"}
    (received,) = server.received
    assert received["model"] == "recommend_separate"
    assert received["headers"]["x-tenant"] == "a"
    assert received["inputs"] == {
        "USER_ID": ("BYTES", [1, 1], b"\x02\x00\x00\x0042"),
        "HISTORY_ITEM_IDS": ("INT64", [1, 1], struct.pack("<q", 7)),
        "HISTORY_ACTIONS": ("INT64", [1, 1], struct.pack("<q", 5)),
        "HISTORY_TIMESTAMPS": ("INT64", [1, 1], struct.pack("<q", 9)),
        "HISTORY_SURFACES": ("INT64", [1, 1], struct.pack("<q", 0)),
        "SURFACE": ("INT64", [1, 1], struct.pack("<q", 2)),
    }
    # All are sent then, of whatever age the server is.
    assert received["outputs"] == set()


def test_an_overloaded_server_is_asked_again(server, kind):
    server.fail(OVERLOADED, "Exceeds maximum queue size", times=2)
    assert ask(kind, server.url) == expected("42", 42)
    assert len(server.received) == 3


def test_a_server_that_stays_overloaded_is_asked_three_times(server, kind):
    server.fail(OVERLOADED, "Exceeds maximum queue size", times=9)
    with pytest.raises(UnavailableError, match=r"^Exceeds maximum queue size$") as raised:
        ask(kind, server.url)
    assert raised.value.status == status_of(server, OVERLOADED)
    assert len(server.received) == 3


@pytest.mark.parametrize(("failure", "error"), [(INVALID, InvalidRequestError), (BROKEN, RecommendError)])
def test_a_refused_request_is_not_sent_again(server, kind, failure, error):
    server.fail(failure, "NUM_RESULTS is 5000; allowed: 1 to 656")
    with pytest.raises(RecommendError, match=r"^NUM_RESULTS is 5000; allowed: 1 to 656$") as raised:
        ask(kind, server.url)
    assert type(raised.value) is error
    assert raised.value.status == status_of(server, failure)
    assert len(server.received) == 1


def test_a_slow_server_is_given_up_at_the_timeout(server, kind):
    server.sleeps_s = [1.5]
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        ask(kind, server.url, timeout_s=0.3)
    assert 0.25 < time.monotonic() - started < 1.2
    assert len(server.received) == 1


def test_a_port_without_a_listener_is_unavailable(kind):
    with pytest.raises(UnavailableError, match="onnect") as raised:
        ask(kind, f"127.0.0.1:{free_port()}")
    assert raised.value.status == ("UNAVAILABLE" if kind in GRPC else None)


def test_an_answer_without_results_is_an_empty_response(server, kind):
    server.answer = lambda user_id: (
        answer(user_id)
        | {
            "ITEM_IDS": ("INT64", [1, 0], b""),
            "SCORES": ("FP32", [1, 0], b""),
            "RETRIEVED_BY": ("INT32", [1, 0], b""),
            "ACTION_PROBS": ("FP32", [1, 0, 2], b""),
        }
    )
    response = ask(kind, server.url)
    assert response.recommendations == ()
    assert response.kv_source == "prefix"


@pytest.mark.parametrize(("model", "ready"), [("recommend", True), ("other", False)])
def test_ready_is_what_the_server_says_of_the_model(server, kind, model, ready):
    assert call(kind, server.url, "ready", model=model) is ready


def test_an_absent_server_is_not_ready(kind):
    assert call(kind, f"127.0.0.1:{free_port()}", "ready") is False


@pytest.mark.parametrize("kind", [GrpcClient, HttpClient])
def test_threads_share_one_client(server, kind):
    with kind(server.url) as client, ThreadPoolExecutor(8) as threads:
        users = [str(number) for number in range(64)]
        responses = list(threads.map(lambda u: client.recommend(RecommendRequest(user_id=u)), users))
    assert responses == [expected(user, int(user)) for user in users]


@pytest.mark.parametrize("kind", [GrpcClient, HttpClient])
def test_a_closed_client_says_so(server, kind):
    client = kind(server.url)
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.recommend(RecommendRequest(user_id="1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://localhost:8001"}, "url is 'ftp://localhost:8001'; allowed: host:port"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0; allowed: more than 0"),
        ({"timeout_s": math.inf}, "timeout_s is inf; allowed: more than 0"),
        ({"timeout_s": 1e12}, "timeout_s is 1000000000000.0; allowed: more than 0"),
        ({"timeout_s": math.nan}, "timeout_s is nan; allowed: more than 0"),
        ({"timeout_s": "5"}, "timeout_s is '5'; allowed: more than 0"),
        ({"timeout_s": None}, "timeout_s is None; allowed: more than 0"),
        ({"root_certificates": "ca.pem"}, "root_certificates is 'ca.pem'; allowed: None"),
        (
            {"root_certificates": "absent.pem", "ssl": True},
            "root_certificates is 'absent.pem'; allowed: a PEM file",
        ),
        ({"root_certificates": __file__, "ssl": True}, "root_certificates is .*; allowed: a PEM file"),
        ({"headers": {"a b": "c"}}, "headers has the name 'a b'; allowed: letters"),
        ({"headers": {"a": "b\n"}}, r"headers\['a'\] has a str; allowed: printable"),
        ({"headers": {"a": 5}}, r"headers\['a'\] has a int; allowed: printable"),
    ],
)
def test_options_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**({"url": "localhost:8001"} | options))


def test_the_longest_timeout_is_not_taken_for_none(server, kind):
    assert ask(kind, server.url, timeout_s=365 * 24 * 3600) == expected("42", 42)
