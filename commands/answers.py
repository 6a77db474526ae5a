"""`unipinrec answers`: record a server's answers, and compare them with an earlier recording."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from unipinrec_client.address import grpc_target, http_address
from unipinrec_client.errors import RecommendError

from commands.errors import one_line_errors
from loadtest.answers import RecordedAnswer, compare, read_answers, write_answers
from loadtest.histories import UserHistory, read_histories
from loadtest.outcomes import OK
from loadtest.plan import LoadPlan, Protocol
from loadtest.sender import connect
from loadtest.traffic import Kind, Visit

MOST_SHOWN = 10
"""Different answers that are told one by one."""

app = typer.Typer(help="Record a server's answers, and compare two recordings.", no_args_is_help=True)


@app.command("record")
def record(
    requests: Annotated[Path, typer.Argument(help="Traffic file, or an earlier recording.")],
    out: Annotated[Path, typer.Argument(help="File that is written, a line for each answer.")],
    url: Annotated[str, typer.Option(help="host:port of the server.")] = "localhost:8001",
    protocol: Annotated[Protocol, typer.Option(help="How requests travel.")] = Protocol.GRPC,
    model: Annotated[str, typer.Option(help="Ensemble to ask.")] = "recommend",
    count: Annotated[int | None, typer.Option(min=1, help="Requests at most; all of the file.")] = None,
    num_results: Annotated[int, typer.Option(min=1, help="NUM_RESULTS of each request.")] = 20,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request counts as failed.")] = 30.0,
) -> None:
    """Send every history of a file to a server, one after another, and write what is answered."""
    with one_line_errors(RecommendError, ValueError):
        plan = LoadPlan(
            url=grpc_target(url) if protocol is Protocol.GRPC else http_address(url),
            protocol=protocol,
            model=model,
            num_results=num_results,
            timeout_s=timeout,
        )
        written = write_answers(out, _ask(plan, islice(read_histories(requests), count)))
    typer.echo(f"{written} answers written to {out}")


def _ask(plan: LoadPlan, histories: Iterable[UserHistory]) -> Iterator[RecordedAnswer]:
    sender = connect(plan)
    for history in histories:
        reply = sender.send(sender.prepare(Visit(Kind.RETURNING, history.user_id, history)))
        if reply.status != OK:
            raise RecommendError(f"the request of user {history.user_id} was answered with {reply.status}")
        yield RecordedAnswer(history, reply.answer())


@app.command("compare")
def compare_command(
    recorded: Annotated[Path, typer.Argument(help="Recording to judge.")],
    earlier: Annotated[Path, typer.Argument(help="Recording that it is compared with.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Allowed difference of scores and probabilities.")
    ] = 1e-5,
) -> None:
    """Compare two recordings of the same requests. Code 1 if an answer differs by more than the tolerance.

    Items may change places where their scores differ by no more than that.
    """
    with one_line_errors(KeyError, ValueError):
        found = compare(read_answers(recorded), read_answers(earlier), tolerance)
    typer.echo(
        f"{found.answers} answers, {found.same_order} with the same items in the same order; largest "
        f"difference {found.largest_difference:.3g}"
    )
    if found.differences:
        more = len(found.differences) - MOST_SHOWN
        shown = [*found.differences[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        typer.secho("\n".join(shown), fg="red", err=True)
        raise typer.Exit(1)
