"""The `unipinrec-client` command."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from unipinrec_client.catalogue import Catalogue
from unipinrec_client.client import Client
from unipinrec_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    RecommendError,
    UnavailableError,
)
from unipinrec_client.exploration import exploration_record
from unipinrec_client.grpc_client import GrpcClient
from unipinrec_client.http_client import HttpClient
from unipinrec_client.items import MOST_ITEMS, ItemOutcome
from unipinrec_client.items_file import read_ids, read_items
from unipinrec_client.types import (
    AppendRequest,
    Event,
    Recommendation,
    RecommendRequest,
    RecommendResponse,
)
from unipinrec_client.values import user_id_bytes

EXIT_FAILED, EXIT_INVALID, EXIT_UNAVAILABLE = 1, 2, 3

DEFAULT_TITLES = Path("build/bundles/current/catalogue.json")
ADDED_TITLES = Path("build/stores/catalogue/titles.jsonl")
"""Of items that were added while serving, a line each."""

# Any id the server has never seen does: it answers unknown users as cold starts.
_CANARY_USER = "unipinrec-client health"

app = typer.Typer(help="Ask a recommendation server.", no_args_is_help=True, pretty_exceptions_enable=False)
items_app = typer.Typer(help="Add, update and remove items while a server serves.", no_args_is_help=True)
app.add_typer(items_app, name="items")


Change = TypeVar("Change")

Protocol = Literal["grpc", "http"]

UrlOption = Annotated[
    str | None,
    typer.Option(
        help="host:port of the server, or a target of gRPC as dns:///host:port."
        " [default: localhost:8001 for grpc, :8000 for http]"
    ),
]
ProtocolOption = Annotated[Protocol, typer.Option(help="How to talk to the server.")]
ModelOption = Annotated[str, typer.Option(help="Model to ask.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait, retries included.")]


@app.command()
def recommend(
    user: Annotated[list[str], typer.Option(help="User id; repeat it for several users.")],
    url: UrlOption = None,
    protocol: ProtocolOption = "grpc",
    model: ModelOption = "recommend",
    timeout: TimeoutOption = 10.0,
    num_results: Annotated[int | None, typer.Option(help="Results per user.")] = 10,
    history: Annotated[
        str | None,
        typer.Option(help="JSON file with a list of {item_id, actions, timestamp, surface}; - reads stdin."),
    ] = None,
    exclude: Annotated[list[int] | None, typer.Option(help="Item id not to return; repeatable.")] = None,
    request_time: Annotated[int | None, typer.Option(help="Unix seconds.")] = None,
    surface: Annotated[int | None, typer.Option(help="Where the results will be shown.")] = None,
    utility: Annotated[str | None, typer.Option(help="Score weight per action: 1,0.5,…")] = None,
    outcome: Annotated[str | None, typer.Option(help="Retrieval budget per action: 1,0.5,…")] = None,
    titles: Annotated[
        Path | None,
        typer.Option(
            help=f"JSON file with names. [default: {DEFAULT_TITLES}, if there]", exists=True, dir_okay=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print recommendations for one or more users."""
    with _errors_on_one_line():
        names = titles or (DEFAULT_TITLES if DEFAULT_TITLES.exists() else None)
        catalogue = Catalogue.read(names) if names else Catalogue()
        if titles is None and ADDED_TITLES.exists():
            catalogue = catalogue.with_added(ADDED_TITLES)
        shared: dict[str, Any] = {
            "history": None if history is None else _read_history(history, users=len(user)),
            "request_time": request_time,
            "surface": surface,
            "num_results": num_results,
            "utility_weights": _weights("--utility", utility),
            "outcome_weights": _weights("--outcome", outcome),
            "exclude_item_ids": tuple(exclude or ()),
        }
        requests = [RecommendRequest(user_id=user_id, **shared) for user_id in user]
        with _client(protocol, url, model, timeout) as client:
            started = time.perf_counter()
            responses = client.recommend_many(requests)
            latency_ms = (time.perf_counter() - started) * 1000
    if as_json:
        records = list(map(exploration_record, requests, responses))
        sys.stdout.write(_to_json(responses, records, catalogue, latency_ms) + "\n")
    else:
        _print_tables(responses, catalogue, latency_ms)


@app.command()
def append(
    user: Annotated[str, typer.Option(help="User id.")],
    events: Annotated[
        str,
        typer.Argument(
            help="JSON file with a list of {item_id, actions, timestamp, surface, event_id}; - reads stdin."
        ),
    ],
    url: UrlOption = None,
    protocol: ProtocolOption = "grpc",
    timeout: TimeoutOption = 10.0,
) -> None:
    """Add events to a user's stored history. One that is there already is not stored again."""
    with _errors_on_one_line():
        request = AppendRequest(user_id=user, events=_read_events("events", events))
        with _client(protocol, url, "recommend", timeout) as client:
            response = client.append_events(request)
    too_old = len(request.events) - response.stored - response.duplicates
    typer.echo(f"{response.stored} stored · {response.duplicates} duplicates · {too_old} too old")


ItemsFile = Annotated[
    Path, typer.Argument(help="JSON lines or parquet: item_id and, optionally, title, attributes, content.")
]


@items_app.command("add")
def add_items(
    file: ItemsFile, url: UrlOption = None, protocol: ProtocolOption = "grpc", timeout: TimeoutOption = 60.0
) -> None:
    """Add the items of a file, or update those that are known. All that is known of an item is in its row."""
    with _errors_on_one_line():
        items = read_items(file)
        with _client(protocol, url, "recommend", timeout) as client:
            _tell(_in_parts("Adding items", items, client.put_items))


@items_app.command("remove")
def remove_items(
    item: Annotated[list[int] | None, typer.Argument(help="Item ids.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON lines or parquet with the ids in item_id.")] = None,
    url: UrlOption = None,
    protocol: ProtocolOption = "grpc",
    timeout: TimeoutOption = 60.0,
) -> None:
    """Remove items: no recommendation that is asked for from then on has them."""
    with _errors_on_one_line():
        ids = [*(item or []), *(read_ids(file) if file else [])]
        with _client(protocol, url, "recommend", timeout) as client:
            _tell(_in_parts("Removing items", ids, client.remove_items))


def _in_parts(
    what: str, changes: Sequence[Change], call: Callable[[Sequence[Change]], Iterable[ItemOutcome]]
) -> list[ItemOutcome]:
    """Make all changes, as many at a time as the server takes. Those before one that fails are made."""
    found: list[ItemOutcome] = []
    starts = range(0, max(len(changes), 1), MOST_ITEMS)
    for first in track(starts, what, console=Console(stderr=True), disable=len(starts) == 1):
        found += call(changes[first : first + MOST_ITEMS])
    return found


def _tell(outcomes: Sequence[ItemOutcome]) -> None:
    counts = Counter(one.outcome for one in outcomes)
    unknown = sum(one.unknown_attributes for one in outcomes)
    told = [f"{count:,} {outcome}" for outcome, count in sorted(counts.items())]
    typer.echo(" · ".join([*told, *([f"{unknown:,} attributes unknown to the bundle"] if unknown else [])]))


@app.command()
def health(
    url: UrlOption = None,
    protocol: ProtocolOption = "grpc",
    model: ModelOption = "recommend",
    timeout: TimeoutOption = 10.0,
    requests: Annotated[
        int, typer.Option(min=1, help="Sent at once, so that instances of a node share them.")
    ] = 1,
) -> None:
    """Make a recommendation without a history: a server with a dead node still calls itself ready."""
    canary = RecommendRequest(user_id=_CANARY_USER, history=(), num_results=1)
    with (
        _errors_on_one_line(),
        _client(protocol, url, model, timeout) as client,
        ThreadPoolExecutor(requests) as pool,
    ):
        started = time.perf_counter()
        responses = list(pool.map(client.recommend, [canary] * requests))
        latency_ms = (time.perf_counter() - started) * 1000
    Console().print(
        f"healthy · bundle {responses[0].bundle_id} · {latency_ms:.1f} ms", highlight=False, markup=False
    )


def _client(protocol: Protocol, url: str | None, model: str, timeout_s: float) -> Client:
    if protocol == "grpc":
        return GrpcClient(url or "localhost:8001", model=model, timeout_s=timeout_s)
    return HttpClient(url or "localhost:8000", model=model, timeout_s=timeout_s)


@contextmanager
def _errors_on_one_line() -> Iterator[None]:
    try:
        yield
    except (InvalidRequestError, ValueError, OSError) as error:
        _fail(error, EXIT_INVALID)
    except (UnavailableError, DeadlineExceededError) as error:
        _fail(error, EXIT_UNAVAILABLE)
    except RecommendError as error:
        _fail(error, EXIT_FAILED)


def _fail(error: Exception, code: int) -> NoReturn:
    line = " ".join(str(error).split())
    if isinstance(error, RecommendError) and error.request_id:
        line = f"{line} [request {error.request_id}]"
    Console(stderr=True).print(Text(line, style="red"), soft_wrap=True)
    raise typer.Exit(code) from None


def _read_history(source: str, users: int) -> list[Event]:
    if users > 1:
        raise ValueError(f"--history is given for {users} users; allowed: one --user")
    return _read_events("--history", source)


def _read_events(name: str, source: str) -> list[Event]:
    content = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise ValueError(f"{name} holds a {type(content).__name__}; allowed: a list of events")
    return [_event(f"{name}[{position}]", fields) for position, fields in enumerate(content)]


def _event(name: str, fields: Any) -> Event:
    try:
        return Event(**fields)
    except TypeError:
        allowed = "{item_id, actions, timestamp, surface, event_id}, the first three required"
        raise ValueError(f"{name} is {fields!r}; allowed: {allowed}") from None


def _weights(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} is {text!r}; allowed: numbers separated by commas") from None


def _user(response: RecommendResponse) -> str:
    return user_id_bytes(response.user_id).decode(errors="replace")


def _to_json(
    responses: tuple[RecommendResponse, ...],
    records: list[dict[str, Any]],
    catalogue: Catalogue,
    latency_ms: float,
) -> str:
    def recommended(item: Recommendation) -> dict[str, Any]:
        names = catalogue.action_names(len(item.action_probabilities))
        fields = {name: value for name, value in asdict(item).items() if value is not None}
        for predicted in ("action_probabilities", "first_action_probabilities"):
            if predicted in fields:
                fields[predicted] = dict(zip(names, fields[predicted], strict=True))
        return fields | {"title": catalogue.title(item.item_id)}

    users = [
        {
            "user_id": _user(response),
            "kv_source": response.kv_source,
            "bundle_id": response.bundle_id,
            "utility_weights": response.utility_weights,
            "utility_source": response.utility_source,
            "exploration_record": record,
            "recommendations": [recommended(item) for item in response.recommendations],
        }
        for response, record in zip(responses, records, strict=True)
    ]
    return json.dumps({"latency_ms": latency_ms, "users": users}, ensure_ascii=False, indent=2)


def _print_tables(responses: tuple[RecommendResponse, ...], catalogue: Catalogue, latency_ms: float) -> None:
    console = Console()
    for response in responses:
        console.print(_table(response, catalogue))
        console.print(
            f"user {_user(response)} · KV {response.kv_source} · bundle {response.bundle_id}"
            f" · {latency_ms:.1f} ms",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _table(response: RecommendResponse, catalogue: Catalogue) -> Table:
    actions = max((len(item.action_probabilities) for item in response.recommendations), default=0)
    table = Table()
    for name in ("rank", "item"):
        table.add_column(name, justify="right")
    table.add_column("title")
    for name in ("score", *catalogue.action_names(actions), "retrieved by"):
        table.add_column(Text(name), justify="right")
    for rank, item in enumerate(response.recommendations, start=1):
        table.add_row(
            str(rank),
            str(item.item_id),
            Text(catalogue.title(item.item_id)),
            f"{item.score:.4f}",
            *(f"{probability:.3f}" for probability in item.action_probabilities),
            str(item.retrieved_by),
        )
    return table
