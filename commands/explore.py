"""`unipinrec explore`: a page over running servers."""

import os
import socket
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from unipinrec_client.address import http_address
from unipinrec_client.client import check_timeout

from commands.errors import USAGE, fail, one_line_errors
from unipinrec.data.prepared import PreparedDatasetError

DEFAULT_URL, DEFAULT_GRPC_PORT, DEFAULT_METRICS_PORT = "localhost:8001", ":8001", ":8002"
MOST_SERVERS = 2


def explore(
    url: Annotated[
        list[str] | None,
        typer.Option(help=f"host:port of a server's gRPC; twice to compare two. [default: {DEFAULT_URL}]"),
    ] = None,
    metrics_url: Annotated[
        list[str] | None,
        typer.Option(
            help="Triton's metrics of each --url, as http://host:8002/metrics, for the time of its stages. "
            "[default: port 8002 of those at port 8001]"
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Prepared dataset whose users are listed and whose histories are shown."),
    ] = None,
    bundles: Annotated[
        Path, typer.Option(help="Folder of bundles: titles, names of actions, the policy's card.")
    ] = Path("build/bundles"),
    model: Annotated[str, typer.Option(help="Model to ask.")] = "recommend",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 5.0,
    address: Annotated[
        str, typer.Option(help="Address to listen on. There is no authentication.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
) -> None:
    """Open a page: a user's history beside what running servers recommend, with sliders for the weights."""
    try:
        from explorer.bundles import Bundles
        from explorer.histories import Histories
        from explorer.page import Explorer
        from explorer.serve import serve
        from explorer.servers import Server
    except ModuleNotFoundError as error:
        fail(
            f"{error.name} is not installed; `unipinrec explore` needs the extra: run `make install`, or "
            "pip install -c constraints.txt -e '.[explore]'",
            USAGE,
        )
    with one_line_errors(ValueError, PreparedDatasetError):
        check_timeout(timeout)
        urls = url or [DEFAULT_URL]
        if len(urls) > MOST_SERVERS:
            raise ValueError(f"--url is given {len(urls)} times; allowed: 1 to {MOST_SERVERS}")
        servers = tuple(
            Server(each, metrics_url=metrics, model=model, timeout_s=timeout)
            for each, metrics in zip(urls, _metrics(urls, metrics_url or []), strict=True)
        )
        explorer = Explorer(
            servers=servers,
            bundles=Bundles(bundles),
            histories=Histories.load(dataset) if dataset else None,
        )
        _check_free(address, port)
    typer.echo(f"explorer at http://{address}:{port} until Ctrl-C, over {', '.join(urls)}")
    serve(explorer, address=address, port=port)


def _check_free(address: str, port: int) -> None:
    """Raise `ValueError` where nothing can listen."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise ValueError(
            f"--address is {address} and --port is {port}: {os.strerror(error.errno or 0)}; allowed: an "
            "address of this host and a free port"
        ) from None


def _metrics(urls: list[str], given: list[str]) -> list[str | None]:
    """Where each server's metrics are; None where nobody said so."""
    if not given:
        return [
            f"http://{each.removesuffix(DEFAULT_GRPC_PORT)}{DEFAULT_METRICS_PORT}/metrics"
            if each.endswith(DEFAULT_GRPC_PORT) and "/" not in each
            else None
            for each in urls
        ]
    if len(given) != len(urls):
        raise ValueError(
            f"--metrics-url is given {len(given)} times; allowed: {len(urls)}, one for each --url"
        )
    for each in given:
        http_address(each)
        if not urlsplit(each).path:
            raise ValueError(f"--metrics-url is {each}; allowed: http://host:port/metrics")
    return list(given)


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    typer.run(explore)
