"""Triton's spans reach an OpenTelemetry receiver: one for the ensemble, one for each node, in their order."""

import json
import time
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner
from unipinrec_client import GrpcClient

from commands.serve import serve
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.settings import ServingSettings
from tests.conftest import Exported, serving
from tests.served.exchange import exchange
from tests.served.nodes import NODES
from tests.served.requests import stored
from tests.served.span_receiver import Span, SpanReceiver, receiving
from tests.support.triton_servers import free_port
from tests.support.waiting import holds_within

RATE = 5
REQUESTS = 20
CALLERS_TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# The exporter sends what it has every five seconds.
ARRIVAL_S = 20.0
RECEIVERS = "http://host:port/path or https://host:port/path"


@pytest.fixture(scope="module")
def receiver() -> Iterator[SpanReceiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(
    exported: Exported, receiver: SpanReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A server whose environment names a proxy, which does not lead to this machine."""
    log_path = tmp_path_factory.mktemp("log") / "server.log"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        with serving(exported, log_path, trace_url=receiver.url, trace_rate=RATE) as server:
            yield server


@pytest.fixture(scope="module")
def traces(traced: EmbeddedServer, receiver: SpanReceiver, exported: Exported) -> dict[str, list[Span]]:
    """The traces of `REQUESTS` requests and of one whose caller traces it, without the canaries' ones."""
    began_ns = time.time_ns()
    with GrpcClient(traced.grpc_url) as client:
        for user in range(REQUESTS):
            client.recommend(stored(exported, user))
    infer_with_callers_trace(traced, str(exported.dataset.user_ids_U[0]))

    def found() -> dict[str, list[Span]]:
        return {trace: spans for trace, spans in receiver.traces().items() if spans[0].start_ns > began_ns}

    # What ends last is sent last.
    assert holds_within(ARRIVAL_S, lambda: named(found().get(CALLERS_TRACE, []), "InferRequest"), 0.1)
    return found()


def infer_with_callers_trace(server: EmbeddedServer, user: str) -> None:
    body = {"inputs": [{"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "data": [user]}]}
    headers = {"traceparent": f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"}
    url = f"{server.http_url}/v2/models/recommend/infer"
    assert exchange("POST", url, json.dumps(body), headers)[0] == 200


def test_one_request_in_rate_is_traced(traces: dict[str, list[Span]]) -> None:
    assert len(traces.keys() - {CALLERS_TRACE}) == REQUESTS / RATE


def test_a_trace_has_the_ensemble_and_every_node_in_order(traces: dict[str, list[Span]]) -> None:
    for spans in traces.values():
        assert {span.service for span in spans} == {"unipinrec"}
        (request,) = named(spans, "InferRequest")
        (ensemble,) = named(spans, "recommend")
        assert ensemble.parent == request.id
        nodes = [span for span in spans if span.parent == ensemble.id]
        assert [span.name for span in nodes] == list(NODES)
        assert {span.parent for span in named(spans, "compute")} == {span.id for span in nodes}
        for node in nodes:
            assert request.start_ns <= ensemble.start_ns <= node.start_ns
            assert node.start_ns < node.end_ns <= ensemble.end_ns <= request.end_ns


def test_a_callers_trace_over_http_is_continued_whatever_the_rate(traces: dict[str, list[Span]]) -> None:
    (request,) = named(traces[CALLERS_TRACE], "InferRequest")
    assert request.parent == CALLERS_SPAN


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--trace-url", "localhost:4318", RECEIVERS),
        ("--trace-url", "ftp://localhost/v1/traces", RECEIVERS),
        ("--trace-url", "http://localhost:4318", RECEIVERS),
        ("--trace-url", "http://localhost:70000/v1/traces", RECEIVERS),
        ("--trace-rate", "0", "greater than or equal to 1"),
        ("--trace-rate", "1000001", "less than or equal to 1000000"),
    ],
)
def test_bad_choices_are_refused_in_one_line(option: str, value: str, allowed: str) -> None:
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, [option, value])
    assert result.exit_code == 1
    variable = f"UNIPINREC_{option[2:]}".upper().replace("-", "_")
    assert result.output.startswith(f"{variable} is {value}; ")
    assert result.output.rstrip("\n").endswith(allowed)
    assert result.output.count("\n") == 1


def test_variables_that_a_compose_file_leaves_empty_trace_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIPINREC_TRACE_URL", "")
    monkeypatch.setenv("UNIPINREC_TRACE_RATE", "")
    assert ServingSettings().trace_url is None


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]
