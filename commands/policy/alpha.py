"""`unipinrec policy set-alpha`, `rollback` and `status`: the operating points of a policy that is served."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import tritonclient.grpc
import typer
from tritonclient.utils import InferenceServerException
from unipinrec_client.address import grpc_target
from unipinrec_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    RecommendError,
    UnavailableError,
    translate,
)
from unipinrec_client.grpc_client import channel_arguments

from commands.errors import USAGE, fail, one_line_errors
from ensemble.nodes.contract import ADMIN_HEADER
from ensemble.settings import ENV_PREFIX, ServingSettings

MODEL = "policy"
FAILED, UNREACHABLE = 1, 3
"""Exit codes of a server that failed, and of one that did not answer."""

Url = Annotated[str, typer.Option(help="host:port of the server's gRPC, or a target of gRPC's own.")]
Ssl = Annotated[bool, typer.Option("--ssl", help="Encrypt the connection.")]
RootCertificates = Annotated[
    Path | None,
    typer.Option(help="PEM file of the authorities to trust instead of the system's.", dir_okay=False),
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for an answer.")]
Note = Annotated[str, typer.Option(help="Why, for whoever looks at the status later.")]

NUMBERS = {"ignore_unknown_options": True}
"""Settings of a command whose argument may be a negative number, which else is taken for an option."""

DEFAULT_URL, DEFAULT_TIMEOUT_S = "localhost:8001", 10.0


def set_alpha_command(
    alpha: Annotated[
        float, typer.Argument(help="From 0, the first reward alone, to 1, the second reward alone.")
    ],
    cohort: Annotated[
        list[str] | None,
        typer.Option(help="name=alpha of a cohort of its own; repeatable. All others get ALPHA."),
    ] = None,
    note: Note = "",
    url: Url = DEFAULT_URL,
    ssl: Ssl = False,
    root_certificates: RootCertificates = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Change the operating points of the policy while it serves. Needs the server's UNIPINREC_ADMIN_KEY."""
    with one_line_errors(ValueError):
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha:g}; allowed: 0 to 1")
        cohorts = dict(_cohort(text) for text in cohort or ())
        command = {"set": {"default": alpha, "cohorts": cohorts}, "note": note}
        _tell(_ask(command, url, ssl, root_certificates, timeout))


def rollback_command(
    note: Note = "",
    url: Url = DEFAULT_URL,
    ssl: Ssl = False,
    root_certificates: RootCertificates = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Return to the operating points before the current ones; a second time, to these. Needs the server's
    UNIPINREC_ADMIN_KEY."""
    with one_line_errors(ValueError):
        _tell(_ask({"rollback": True, "note": note}, url, ssl, root_certificates, timeout))


def status_command(
    url: Url = DEFAULT_URL,
    ssl: Ssl = False,
    root_certificates: RootCertificates = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Show which policy is served, and its operating points."""
    with one_line_errors(ValueError):
        _tell(_ask({}, url, ssl, root_certificates, timeout))


def _cohort(text: str) -> tuple[str, float]:
    name, _, alpha = text.partition("=")
    try:
        number = float(alpha)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"--cohort is {text!r}; allowed: name=alpha with an alpha from 0 to 1, as core=0.2")
    return name, number


def _ask(
    command: dict[str, Any], url: str, ssl: bool, root_certificates: Path | None, timeout_s: float
) -> dict[str, Any]:
    """The status that the policy answers with; ends the command where there is none."""
    if root_certificates and not ssl:
        raise ValueError(f"--root-certificates is {root_certificates}; allowed: none without --ssl")
    target = grpc_target(url, ssl=ssl)
    # Whoever asks for the status alone needs no key.
    headers = {ADMIN_HEADER: _key()} if command else {}
    tensor = tritonclient.grpc.InferInput("COMMAND", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([json.dumps(command).encode()], np.object_))
    try:
        with tritonclient.grpc.InferenceServerClient(
            target,
            ssl=ssl,
            root_certificates=root_certificates and str(root_certificates),
            channel_args=channel_arguments(target),
        ) as client:
            result = client.infer(MODEL, [tensor], headers=headers, client_timeout=timeout_s)
    except InferenceServerException as error:
        _end(translate(error), url)
    status: dict[str, Any] = json.loads(result.as_numpy("STATUS")[0])
    return status


def _key() -> str:
    """The key of the environment, since other users of a machine can read command lines."""
    key = ServingSettings().admin_key
    secret = key.get_secret_value() if key else ""
    if not secret:
        raise ValueError(
            f"{ENV_PREFIX}ADMIN_KEY is not set; allowed: the key that the server was started with"
        )
    if not (secret.isascii() and secret.isprintable()):
        raise ValueError(
            f"{ENV_PREFIX}ADMIN_KEY has other characters; allowed: printable ASCII, as in headers"
        )
    return secret


def _end(error: RecommendError, url: str) -> NoReturn:
    if error.status == "NOT_FOUND":
        fail(f"{url} serves no policy: its bundle has none; `unipinrec export` puts one into a bundle", USAGE)
    if isinstance(error, InvalidRequestError):
        fail(str(error), USAGE)
    if isinstance(error, UnavailableError | DeadlineExceededError):
        fail(f"{url} does not answer: {error}", UNREACHABLE)
    fail(f"{url} failed: {error}", FAILED)


def _tell(status: dict[str, Any]) -> None:
    first, second = status["rewards"]
    learned = ", learned from a synthetic log" if status["synthetic"] else ""
    typer.echo(f"policy {status['policy'][:12]}{learned}: {status['arms']} arms")
    typer.echo(f"alpha, from 0 for {first} alone to 1 for {second} alone:")
    width = max(len(cohort) for cohort in status["cohorts"])
    for cohort, alpha in status["cohorts"].items():
        typer.echo(f"  {cohort:{width}}  " + (f"{alpha:g}" if alpha is not None else "none, static weights"))
    note = f": {status['note']}" if status["note"] else ""
    since = datetime.fromtimestamp(status["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    typer.echo(
        f"revision {status['revision']}, " + (since if status["revision"] else "the policy's card") + note
    )


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    app = typer.Typer(no_args_is_help=True)
    app.command("set-alpha", context_settings=NUMBERS)(set_alpha_command)
    app.command("rollback")(rollback_command)
    app.command("status")(status_command)
    app()
