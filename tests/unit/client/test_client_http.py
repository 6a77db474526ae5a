"""The HTTP clients against a real HTTP server that plays Triton's part."""

import asyncio
import gc
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from unipinrec_client import (
    AsyncHttpClient,
    DeadlineExceededError,
    Event,
    HttpClient,
    InvalidRequestError,
    Recommendation,
    RecommendError,
    RecommendRequest,
    RecommendResponse,
    RetryPolicy,
    UnavailableError,
)

QUICK = RetryPolicy(attempts=3, initial_wait_s=0.02, max_wait_s=0.1)


def answer(user_id):
    """One user's answer of one item and one padded place, packed by hand."""
    return [
        ("ITEM_IDS", "INT64", [1, 2], struct.pack("<2q", int(user_id), -1)),
        ("SCORES", "FP32", [1, 2], struct.pack("<2f", 0.75, -3.4028234663852886e38)),
        ("ACTION_PROBS", "FP32", [1, 2, 2], struct.pack("<4f", 0.5, 0.25, 0.0, 0.0)),
        ("RETRIEVED_BY", "INT32", [1, 2], struct.pack("<2i", 3, 0)),
        ("KV_SOURCE", "BYTES", [1, 1], struct.pack("<I", 6) + b"prefix"),
        ("UTILITY_SOURCE", "BYTES", [1, 1], struct.pack("<I", 5) + b"given"),
        ("USED_UTILITY_WEIGHTS", "FP32", [1, 2], struct.pack("<2f", 1.0, 0.5)),
        ("BUNDLE_ID", "BYTES", [1, 1], struct.pack("<I", 8) + b"bundle-1"),
    ]


def expected(user_id, item_id):
    return RecommendResponse(
        user_id=user_id,
        recommendations=(
            Recommendation(item_id=item_id, score=0.75, action_probabilities=(0.5, 0.25), retrieved_by=3),
        ),
        kv_source="prefix",
        bundle_id="bundle-1",
        utility_weights=(1.0, 0.5),
        utility_source="given",
    )


class HttpServer:
    """Answers with the user id as the item id, after failing or sleeping as told."""

    def __init__(self):
        self.failures = []
        self.sleeps_before_reading_s = []
        self.sleeps_s = []
        self.answer = answer
        self.requests = []
        self.connections = set()
        self.open_connections = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"played_by": self, "do_GET": _ready, "do_POST": _infer})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        # A caller that gave up has left; what is printed of that would stand in another test's output.
        self.server.handle_error = lambda *_: None
        self.url = f"127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def count(self, change, peer):
        with self._lock:
            self.connections.add(peer)
            self.open_connections += change

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.played_by.count(1, self.client_address)

    def finish(self):
        self.played_by.count(-1, self.client_address)
        super().finish()

    def log_message(self, *_):
        """Keep the test's output free of requests."""

    def reply(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)


def _ready(handler):
    handler.reply(200 if handler.path == "/v2/models/recommend/ready" else 400, b"")


def _infer(handler):
    server = handler.played_by
    if server.sleeps_before_reading_s:
        time.sleep(server.sleeps_before_reading_s.pop(0))
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    header_size = int(handler.headers["Inference-Header-Content-Length"])
    request = json.loads(body[:header_size])
    server.requests.append((handler.path, dict(handler.headers), request, body[header_size:]))
    if server.sleeps_s:
        time.sleep(server.sleeps_s.pop(0))
    if server.failures:
        status, message = server.failures.pop(0)
        handler.reply(status, message)
        return
    assert request["inputs"][0]["name"] == "USER_ID"
    user_id = body[header_size + 4 :][: struct.unpack("<I", body[header_size : header_size + 4])[0]]
    outputs = server.answer(user_id)
    listed = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        for name, kind, shape, content in outputs
    ]
    head = json.dumps({"model_name": "recommend", "outputs": listed}).encode()
    content = b"".join(content for *_, content in outputs)
    handler.reply(200, head + content, Inference_Header_Content_Length=len(head))


@pytest.fixture
def server():
    server = HttpServer()
    yield server
    server.stop()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(url, asynchronous, *requests, **options):
    """Send the requests one after the other through one client; return the last answer."""
    requests = requests or (RecommendRequest(user_id="42"),)
    options = {"retry": QUICK} | options
    if not asynchronous:
        with HttpClient(url, **options) as client:
            return [client.recommend(request) for request in requests][-1]

    async def asked():
        async with AsyncHttpClient(url, **options) as client:
            return [await client.recommend(request) for request in requests][-1]

    return asyncio.run(asked())


both = pytest.mark.parametrize("asynchronous", [False, True])


@both
def test_a_request_arrives_and_its_answer_comes_back(server, asynchronous):
    request = RecommendRequest(user_id="42", history=[Event(item_id=7, actions=5, timestamp=9)], surface=2)
    headers = {"X-Tenant": "a"}
    response = ask(server.url, asynchronous, request, model="recommend_separate", headers=headers)

    assert response == expected("42", 42)
    ((path, received_headers, received, content),) = server.requests
    assert path == "/v2/models/recommend_separate/infer"
    assert received_headers["X-Tenant"] == "a"
    assert headers == {"X-Tenant": "a"}
    assert [(i["name"], i["datatype"], i["shape"]) for i in received["inputs"]] == [
        ("USER_ID", "BYTES", [1, 1]),
        ("HISTORY_ITEM_IDS", "INT64", [1, 1]),
        ("HISTORY_ACTIONS", "INT64", [1, 1]),
        ("HISTORY_TIMESTAMPS", "INT64", [1, 1]),
        ("HISTORY_SURFACES", "INT64", [1, 1]),
        ("SURFACE", "INT64", [1, 1]),
    ]
    assert content == b"\x02\x00\x00\x0042" + struct.pack("<5q", 7, 5, 9, 0, 2)
    assert {(o["name"], o["parameters"]["binary_data"]) for o in received["outputs"]} == {
        (name, True) for name, *_ in answer(b"0")
    }


@both
def test_requests_of_different_sizes_share_one_connection(server, asynchronous):
    long = RecommendRequest(user_id="1", exclude_item_ids=range(10000))
    assert ask(server.url, asynchronous, long, RecommendRequest(user_id="2")) == expected("2", 2)
    assert len(server.connections) == 1


@both
def test_an_overloaded_server_is_asked_again(server, asynchronous):
    server.failures = [(503, b'{"error":"Exceeds maximum queue size"}')] * 2
    assert ask(server.url, asynchronous) == expected("42", 42)
    assert len(server.requests) == 3


@both
def test_a_server_that_stays_overloaded_is_asked_three_times(server, asynchronous):
    server.failures = [(503, b'{"error":"Exceeds maximum queue size"}')] * 9
    with pytest.raises(UnavailableError, match=r"^Exceeds maximum queue size$") as raised:
        ask(server.url, asynchronous)
    assert raised.value.status == "503"
    assert len(server.requests) == 3


@both
@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidRequestError), (404, RecommendError), (500, RecommendError)]
)
def test_a_refused_request_is_not_sent_again(server, asynchronous, status, kind):
    server.failures = [(status, b'{"error":"NUM_RESULTS is 5000; allowed: 1 to 656"}')]
    with pytest.raises(RecommendError, match=r"^NUM_RESULTS is 5000; allowed: 1 to 656$") as raised:
        ask(server.url, asynchronous)
    assert type(raised.value) is kind
    assert raised.value.status == str(status)
    assert len(server.requests) == 1


@both
def test_a_proxys_page_of_html_keeps_its_status(server, asynchronous):
    server.failures = [(503, b"<html>no upstream</html>")] * 3
    with pytest.raises(UnavailableError, match="no upstream") as raised:
        ask(server.url, asynchronous)
    assert raised.value.status == "503"


@both
def test_an_answer_that_is_not_tritons_is_an_error(server, asynchronous):
    server.failures = [(200, b"<html>welcome</html>")]
    with pytest.raises(RecommendError, match="request failed"):
        ask(server.url, asynchronous)


@both
def test_a_slow_server_is_given_up_at_the_timeout(server, asynchronous):
    server.sleeps_s = [1.5]
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        ask(server.url, asynchronous, timeout_s=0.3)
    assert 0.25 < time.monotonic() - started < 1.2
    assert len(server.requests) == 1


@both
def test_an_answer_in_drops_is_given_up_at_the_timeout(asynchronous):
    listener = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = listener.accept()
        connection.recv(65536)
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(40):
                    connection.sendall(b"x")
                    time.sleep(0.05)
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        ask(f"127.0.0.1:{listener.getsockname()[1]}", asynchronous, timeout_s=0.4)
    assert time.monotonic() - started < 1.2
    dripping.join()
    listener.close()


def test_a_late_answer_is_not_taken_for_the_next_requests(server):
    server.sleeps_s = [0.4]
    with HttpClient(server.url, timeout_s=0.2, retry=QUICK) as client:
        with pytest.raises(DeadlineExceededError):
            client.recommend(RecommendRequest(user_id="1"))
        time.sleep(0.4)
        assert client.recommend(RecommendRequest(user_id="2")) == expected("2", 2)


@both
def test_a_timeout_while_sending_leaves_the_client_usable(server, asynchronous):
    server.sleeps_before_reading_s = [1.0]
    # More than the socket buffers of both sides hold.
    large = RecommendRequest(user_id="1", exclude_item_ids=range(2**21))
    small = RecommendRequest(user_id="2")

    def ask_twice():
        with HttpClient(server.url, timeout_s=0.4, retry=QUICK) as client:
            with pytest.raises(DeadlineExceededError):
                client.recommend(large)
            return client.recommend(small)

    async def ask_twice_async():
        async with AsyncHttpClient(server.url, timeout_s=0.4, retry=QUICK) as client:
            with pytest.raises(DeadlineExceededError):
                await client.recommend(large)
            return await client.recommend(small)

    answered = asyncio.run(ask_twice_async()) if asynchronous else ask_twice()
    assert answered == expected("2", 2)


@both
def test_nobody_listening_is_unavailable(asynchronous):
    with pytest.raises(UnavailableError, match="no connection") as raised:
        ask(f"127.0.0.1:{free_port()}", asynchronous)
    assert raised.value.status is None


@both
def test_a_server_that_hangs_up_is_unavailable(asynchronous):
    listener = socket.create_server(("127.0.0.1", 0))
    accepted = []

    def hang_up():
        for _ in range(2):
            connection, _ = listener.accept()
            connection.recv(65536)
            accepted.append(connection)
            connection.close()

    hanging_up = threading.Thread(target=hang_up)
    hanging_up.start()
    with pytest.raises(UnavailableError):
        ask(
            f"127.0.0.1:{listener.getsockname()[1]}",
            asynchronous,
            retry=RetryPolicy(attempts=2, initial_wait_s=0.01),
        )
    hanging_up.join(5)
    listener.close()
    assert len(accepted) == 2


@both
@pytest.mark.parametrize(("model", "ready"), [("recommend", True), ("other", False)])
def test_ready_is_what_the_server_says_of_the_model(server, asynchronous, model, ready):
    assert readiness(server.url, asynchronous, model) is ready


@both
def test_an_absent_server_is_not_ready(asynchronous):
    assert readiness(f"127.0.0.1:{free_port()}", asynchronous, "recommend") is False


def readiness(url, asynchronous, model):
    if not asynchronous:
        with HttpClient(url, model=model) as client:
            return client.ready()

    async def asked():
        async with AsyncHttpClient(url, model=model) as client:
            return await client.ready()

    return asyncio.run(asked())


@both
def test_an_answer_without_results_is_an_empty_response(server, asynchronous):
    server.answer = lambda user_id: [
        ("ITEM_IDS", "INT64", [1, 0], b""),
        ("SCORES", "FP32", [1, 0], b""),
        ("ACTION_PROBS", "FP32", [1, 0, 2], b""),
        ("RETRIEVED_BY", "INT32", [1, 0], b""),
        *answer(user_id)[4:],
    ]
    response = ask(server.url, asynchronous)
    assert response.recommendations == ()
    assert response.kv_source == "prefix"


def test_eight_threads_share_one_client_over_a_connection_each(server):
    client = HttpClient(server.url, timeout_s=30.0, retry=RetryPolicy(attempts=1))
    together = threading.Barrier(8)
    wrong = []

    def work(thread):
        together.wait()
        for user in range(thread * 100, thread * 100 + 25):
            if client.recommend(RecommendRequest(user_id=str(user))) != expected(str(user), user):
                wrong.append(user)

    with ThreadPoolExecutor(8) as threads:
        for finished in [threads.submit(work, thread) for thread in range(8)]:
            finished.result()
    assert wrong == []
    assert len(server.requests) == 200
    assert len(server.connections) == 8
    client.close()
    assert_soon(lambda: server.open_connections == 0)


def test_a_client_dropped_by_living_threads_leaves_no_connection(server):
    with ThreadPoolExecutor(2) as threads:
        client = HttpClient(server.url)
        together = threading.Barrier(2)

        def work(client, user):
            together.wait()
            return client.recommend(RecommendRequest(user_id=user))

        answers = [threads.submit(work, client, user) for user in ("1", "2")]
        assert [answer.result() for answer in answers] == [expected("1", 1), expected("2", 2)]
        client.close()
        del client, answers
        gc.collect()
        assert_soon(lambda: server.open_connections == 0)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_ended_threads_leave_no_descriptors(server):
    client = HttpClient(server.url)
    client.recommend(RecommendRequest(user_id="1"))
    assert_soon(lambda: server.open_connections == 1)
    before = open_descriptors()
    for user in range(20):
        thread = threading.Thread(target=client.recommend, args=(RecommendRequest(user_id=str(user)),))
        thread.start()
        thread.join()
    assert_soon(lambda: server.open_connections == 1)
    assert_soon(lambda: open_descriptors() <= before)
    client.close()


def test_a_closed_client_says_so(server):
    client = HttpClient(server.url)
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.recommend(RecommendRequest(user_id="1"))


def test_greenlets_that_end_leave_the_others_running(server):
    program = (
        "import gevent.monkey; gevent.monkey.patch_all()\n"
        "import sys, gevent\n"
        "from unipinrec_client import HttpClient, RecommendRequest\n"
        "client = HttpClient(sys.argv[1])\n"
        "def ask(user): return client.recommend(RecommendRequest(user_id=user)).recommendations[0].item_id\n"
        "for batch in range(3):\n"
        "    jobs = [gevent.spawn(ask, str(10 * batch + number)) for number in range(4)]\n"
        "    print([job.get() for job in jobs])\n"
        "client.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, server.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "[0, 1, 2, 3]\n[10, 11, 12, 13]\n[20, 21, 22, 23]\n"


def open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def assert_soon(condition, within_s=5.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.02)


@pytest.fixture
def certificate(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    made = [str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    key = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-out", made[0], "-keyout", made[1]]
    subprocess.run([openssl, "req", "-x509", *key, *subject], check=True, capture_output=True)
    return made


@both
def test_an_encrypted_server_is_trusted_by_its_certificate_alone(server, certificate, asynchronous):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.server.socket = context.wrap_socket(server.server.socket, server_side=True)

    trusting = ask(server.url, asynchronous, ssl=True, root_certificates=certificate[0], timeout_s=5.0)
    assert trusting == expected("42", 42)
    with pytest.raises(UnavailableError, match=r"(?i)certificate"):
        ask(server.url, asynchronous, ssl=True, timeout_s=5.0, retry=RetryPolicy(attempts=1))
