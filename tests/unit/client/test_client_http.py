"""What the HTTP clients have to themselves."""

import asyncio
import gc
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from unipinrec_client import (
    AsyncHttpClient,
    DeadlineExceededError,
    HttpClient,
    RecommendError,
    RecommendRequest,
    RetryPolicy,
    UnavailableError,
)

from tests.support.triton_servers import expected
from tests.unit.client.calls import HTTP, ONCE, QUICK, ask

both = pytest.mark.parametrize("kind", HTTP)


@both
def test_requests_of_different_sizes_share_one_connection(http_server, kind):
    long = RecommendRequest(user_id="1", exclude_item_ids=range(10000))
    assert ask(kind, http_server.url, long, RecommendRequest(user_id="2")) == expected("2", 2)
    assert len(http_server.connections) == 1


@both
def test_a_proxys_page_of_html_keeps_its_status(http_server, kind):
    http_server.failures = [(503, b"<html>no upstream</html>")] * 3
    with pytest.raises(UnavailableError, match="no upstream") as raised:
        ask(kind, http_server.url)
    assert raised.value.status == "503"


@both
def test_a_model_that_the_server_does_not_have_is_not_asked_for_again(http_server, kind):
    http_server.failures = [(404, b'{"error":"unknown model"}')]
    with pytest.raises(RecommendError, match=r"^unknown model$") as raised:
        ask(kind, http_server.url)
    assert type(raised.value) is RecommendError
    assert raised.value.status == "404"
    assert len(http_server.received) == 1


@both
def test_an_answer_that_is_not_tritons_is_an_error(http_server, kind):
    http_server.failures = [(200, b"<html>welcome</html>")]
    with pytest.raises(RecommendError, match="request failed"):
        ask(kind, http_server.url)


@both
def test_an_answer_in_drops_is_given_up_at_the_timeout(kind):
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
        ask(kind, f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.4)
    assert time.monotonic() - started < 1.2
    dripping.join()
    listener.close()


def test_a_late_answer_is_not_taken_for_the_next_requests(http_server):
    http_server.sleeps_s = [0.4]
    with HttpClient(http_server.url, timeout_s=0.2, retry=QUICK) as client:
        with pytest.raises(DeadlineExceededError):
            client.recommend(RecommendRequest(user_id="1"))
        time.sleep(0.4)
        assert client.recommend(RecommendRequest(user_id="2")) == expected("2", 2)


@both
def test_a_timeout_while_sending_leaves_the_client_usable(http_server, kind):
    http_server.sleeps_before_reading_s = [1.0]
    # More than the socket buffers of both sides hold.
    large = RecommendRequest(user_id="1", exclude_item_ids=range(2**21))
    small = RecommendRequest(user_id="2")

    def ask_twice():
        with HttpClient(http_server.url, timeout_s=0.4, retry=QUICK) as client:
            with pytest.raises(DeadlineExceededError):
                client.recommend(large)
            return client.recommend(small)

    async def ask_twice_async():
        async with AsyncHttpClient(http_server.url, timeout_s=0.4, retry=QUICK) as client:
            with pytest.raises(DeadlineExceededError):
                await client.recommend(large)
            return await client.recommend(small)

    answered = asyncio.run(ask_twice_async()) if kind is AsyncHttpClient else ask_twice()
    assert answered == expected("2", 2)


@both
def test_a_server_that_hangs_up_is_unavailable(kind):
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
    url = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(UnavailableError):
        ask(kind, url, retry=RetryPolicy(attempts=2, initial_wait_s=0.01))
    hanging_up.join(5)
    listener.close()
    assert len(accepted) == 2


def test_eight_threads_share_one_client_over_a_connection_each(http_server):
    client = HttpClient(http_server.url, timeout_s=30.0, retry=ONCE)
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
    assert len(http_server.received) == 200
    assert len(http_server.connections) == 8
    client.close()
    assert_soon(lambda: http_server.open_connections == 0)


def test_a_client_dropped_by_living_threads_leaves_no_connection(http_server):
    with ThreadPoolExecutor(2) as threads:
        client = HttpClient(http_server.url)
        together = threading.Barrier(2)

        def work(client, user):
            together.wait()
            return client.recommend(RecommendRequest(user_id=user))

        answers = [threads.submit(work, client, user) for user in ("1", "2")]
        assert [answer.result() for answer in answers] == [expected("1", 1), expected("2", 2)]
        client.close()
        del client, answers
        gc.collect()
        assert_soon(lambda: http_server.open_connections == 0)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_ended_threads_leave_no_descriptors(http_server):
    client = HttpClient(http_server.url)
    client.recommend(RecommendRequest(user_id="1"))
    assert_soon(lambda: http_server.open_connections == 1)
    before = open_descriptors()
    for user in range(20):
        thread = threading.Thread(target=client.recommend, args=(RecommendRequest(user_id=str(user)),))
        thread.start()
        thread.join()
    assert_soon(lambda: http_server.open_connections == 1)
    assert_soon(lambda: open_descriptors() <= before)
    client.close()


def test_greenlets_that_end_leave_the_others_running(http_server):
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
        [sys.executable, "-c", program, http_server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
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
def test_an_encrypted_server_is_trusted_by_its_certificate_alone(http_server, certificate, kind):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    http_server.server.socket = context.wrap_socket(http_server.server.socket, server_side=True)

    trusting = ask(kind, http_server.url, ssl=True, root_certificates=certificate[0], timeout_s=5.0)
    assert trusting == expected("42", 42)
    with pytest.raises(UnavailableError, match=r"(?i)certificate"):
        ask(kind, http_server.url, ssl=True, timeout_s=5.0, retry=ONCE)
