"""`unipinrec policy` changes the alphas of a policy that is served, and says in one line why it does not."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr
from tritonclient.grpc import service_pb2
from typer.testing import CliRunner

from commands.policy.app import app
from ensemble.policy.alphas import AlphaBook, CommandError
from ensemble.policy.control import PolicyControl
from tests.support.policy_cards import policy_card
from tests.support.triton_servers import free_port

KEY = "7f-right"
FINGERPRINT = "a" * 12


class PolicyServer:
    """Answers commands as the node does, over real gRPC."""

    def __init__(self, path: Path) -> None:
        self.book = AlphaBook(path, policy_card())
        self.model, self.failure = "policy", None
        control = PolicyControl(policy_card(), self.book, SecretStr(KEY), lambda: None)

        def infer(request, context):
            if self.failure:
                context.abort(*self.failure)
            if request.model_name != self.model:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}'")
            key = dict(context.invocation_metadata()).get("unipinrec-admin-key")
            try:
                status = json.dumps(control.answer(request.raw_input_contents[0][4:], key)).encode()
            except CommandError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            response = service_pb2.ModelInferResponse(model_name="policy")
            response.outputs.add(name="STATUS", datatype="BYTES", shape=[1])
            response.raw_output_contents.append(len(status).to_bytes(4, "little") + status)
            return response

        messages = service_pb2.ModelInferRequest, service_pb2.ModelInferResponse
        handler = grpc.unary_unary_rpc_method_handler(
            infer, messages[0].FromString, messages[1].SerializeToString
        )
        service = "inference.GRPCInferenceService"
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
        )
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
        self.book.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PolicyServer]:
    server = PolicyServer(tmp_path / "alphas.json")
    yield server
    server.stop()


def run(*arguments: object, key: str | None = KEY) -> tuple[int, list[str], str]:
    env = {"COLUMNS": "120", "UNIPINREC_ADMIN_KEY": key}
    result = CliRunner().invoke(app, [*map(str, arguments)], env=env)
    return result.exit_code, result.stdout.splitlines(), result.stderr


def failed(code: int, said: str, *arguments: object, key: str | None = KEY) -> None:
    """Run a command that ends with this code and one line that has this in it."""
    found, out, err = run(*arguments, key=key)
    assert (found, out, err.count("\n")) == (code, [], 1)
    assert said in err
    assert KEY not in err


def test_the_status_shows_the_policy_and_the_alpha_of_every_cohort(server: PolicyServer) -> None:
    code, lines, err = run("status", "--url", server.url, key=None)
    assert (code, err) == (0, "")
    assert lines == [
        f"policy {FINGERPRINT}, learned from a synthetic log: 49 arms",
        "alpha, from 0 for click alone to 1 for save alone:",
        "  core    0.25",
        "  casual  0.5",
        "  rest    0.5",
        "revision 0, the policy's card",
    ]


def test_alphas_are_set_and_rolled_back(server: PolicyServer) -> None:
    code, lines, _ = run(
        "set-alpha",
        "0.3",
        "--cohort",
        "core=0.2",
        "--cohort",
        "rest=1",
        "--note",
        "calmer",
        "--url",
        server.url,
    )
    assert code == 0
    assert lines[2:5] == ["  core    0.2", "  casual  0.3", "  rest    1"]
    assert lines[5].startswith("revision 1, 20")
    assert lines[5].endswith(" UTC: calmer")
    current = server.book.current()
    assert (current.alphas.default, current.alphas.cohorts) == (0.3, {"core": 0.2, "rest": 1.0})
    code, lines, _ = run("rollback", "--note", "worse", "--url", server.url)
    assert code == 0
    assert lines[2:5] == ["  core    0.25", "  casual  0.5", "  rest    0.5"]
    assert lines[5].startswith("revision 2, 20")


def test_a_change_needs_the_key_of_the_server(server: PolicyServer) -> None:
    for arguments in (["set-alpha", 0.3], ["rollback"]):
        failed(2, "UNIPINREC_ADMIN_KEY is not set; allowed: ", *arguments, "--url", server.url, key=None)
        failed(
            2,
            "UNIPINREC_ADMIN_KEY has other characters; allowed: ",
            *arguments,
            "--url",
            server.url,
            key="k\u00e9y",
        )
        failed(2, "unipinrec-admin-key is another", *arguments, "--url", server.url, key="other")
    assert server.book.current().number == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set-alpha", "1.5"], "alpha is 1.5; allowed: 0 to 1\n"),
        (["set-alpha", "-0.5"], "alpha is -0.5; allowed: 0 to 1\n"),
        (["set-alpha", "nan"], "alpha is nan; allowed: 0 to 1\n"),
        (["set-alpha", "0.3", "--cohort", "core=-1"], "--cohort is 'core=-1'; allowed: name=alpha with "),
        (["set-alpha", "0.3", "--cohort", "vip=0.1"], "cohort is vip; allowed: core, casual, rest"),
        (["set-alpha", "0.3", "--cohort", "core"], "--cohort is 'core'; allowed: name=alpha with an alpha "),
        (["set-alpha", "0.3", "--note", "x" * 501], "note has 501 characters; allowed: up to 500"),
        (["rollback"], "revision is 0, the card's; allowed: "),
        (["status", "--root-certificates", "some.pem"], "--root-certificates is some.pem; allowed: "),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(
    server: PolicyServer, arguments: list[str], said: str
) -> None:
    failed(2, said, *arguments, "--url", server.url)
    assert server.book.current().number == 0


def test_a_server_without_a_policy_is_named(server: PolicyServer) -> None:
    server.model = "something else"
    failed(2, f"{server.url} serves no policy: its bundle has none", "status", "--url", server.url)


def test_a_server_that_fails_or_is_not_there_is_named(server: PolicyServer) -> None:
    server.failure = (grpc.StatusCode.INTERNAL, "RuntimeError: no decision in 1 s")
    failed(1, f"{server.url} failed: RuntimeError: no decision in 1 s", "status", "--url", server.url)
    nowhere = f"127.0.0.1:{free_port()}"
    failed(3, f"{nowhere} does not answer: ", "status", "--url", nowhere, "--timeout", 5)
    failed(2, "url is 'nowhere'; allowed: ", "status", "--url", "nowhere")
