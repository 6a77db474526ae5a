"""Options that all commands of load share, and what they amount to."""

import inspect
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from unipinrec_client.client import check_timeout

from commands.errors import one_line_errors
from commands.load_target import LoadTarget, limit_of, target_of, write_traffic
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import StoreError
from loadtest.capacity import CapacityError
from loadtest.generators import GeneratorError
from loadtest.locust_run import LocustError
from loadtest.measures import NothingMeasuredError
from loadtest.plan import LoadPlan, Protocol
from loadtest.report import Check, broken
from loadtest.traffic import HistoryLimit, TrafficMix
from unipinrec.data.prepared import PreparedDatasetError

DEFAULT_MIX = "new=0.1,anonymous=0.2,returning=0.7"
LEAST_RATE, MOST_RATE = 0.1, 100_000
"""Requests a second."""
KINDS = ("new", "anonymous", "returning")
MENDABLE = (
    *(ServerError, LocustError, GeneratorError, CapacityError, NothingMeasuredError),
    *(PreparedDatasetError, StoreError, ValueError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Where load goes and what it is made of."""

    url: Annotated[
        str | None,
        typer.Option(help="host:port of a running server; default: one of its own on free ports."),
    ] = None
    metrics_url: Annotated[
        str | None, typer.Option(help="Triton's metrics of that server, as http://host:8002/metrics.")
    ] = None
    protocol: Annotated[Protocol, typer.Option(help="How requests travel.")] = Protocol.GRPC
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that generate load.")] = 1
    mix: Annotated[str, typer.Option(help="Shares of new, anonymous and returning callers.")] = DEFAULT_MIX
    zipf: Annotated[
        float, typer.Option(min=0, max=10, help="Users return with a share of 1 / rank^zipf; 0: evenly.")
    ] = 1.0
    seed: Annotated[int, typer.Option(min=0, help="Seed of all traffic.")] = 0
    bundle: Annotated[Path | None, typer.Option(help="Bundle to serve; default: the current one.")] = None
    histories: Annotated[
        Path | None,
        typer.Option(help="Store to serve and replay histories of; default: UNIPINREC_HISTORIES."),
    ] = None
    dataset: Annotated[Path | None, typer.Option(help="Prepared dataset whose histories are replayed.")] = (
        None
    )
    traffic: Annotated[Path | None, typer.Option(help="Traffic file that is replayed.")] = None
    num_results: Annotated[int, typer.Option(min=1, help="NUM_RESULTS of each request.")] = 20
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request counts as failed.")] = 10.0
    out: Annotated[Path, typer.Option(help="Folder of everything that is written.")] = Path("build/loadtest")

    @property
    def settings(self) -> ServingSettings:
        """The environment's, with the bundle and the store of the command line."""
        chosen = {"bundle": self.bundle, "histories": self.histories}
        given: dict[str, Path | None] = {
            name: path.absolute() for name, path in chosen.items() if path is not None
        }
        if self.histories is not None:
            given["histories_url"] = None
        return ServingSettings.model_validate(given)

    @contextmanager
    def running(self, console: Console) -> Iterator[tuple[LoadTarget, LoadPlan, Path]]:
        """Yield the server, a plan without stages, and the folder for everything that is written.

        What the user can mend is said in one line, also what goes wrong within the block.
        """
        mix = parse_mix(self.mix, self.zipf)
        # A SIGTERM ends the run in order too, with the server stopped and its shared memory removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        out = self.out.absolute()
        with one_line_errors(*MENDABLE):
            check_timeout(self.timeout)
            out.mkdir(parents=True, exist_ok=True)
            settings = self.settings
            traffic = self._traffic(settings, out, console)
            with target_of(
                settings,
                self.protocol,
                url=self.url,
                metrics_url=self.metrics_url,
                log_path=out / "server.log",
            ) as target:
                console.print(f"server at {target.url}, {self.protocol.value}", soft_wrap=True)
                plan = LoadPlan(
                    url=target.url,
                    protocol=self.protocol,
                    workers=self.workers,
                    traffic=str(traffic),
                    mix=mix,
                    limit=self._limit(settings),
                    seed=self.seed,
                    num_results=self.num_results,
                    timeout_s=self.timeout,
                    outcomes=str(out / "outcomes.csv"),
                )
                yield target, plan, out

    def _traffic(self, settings: ServingSettings, out: Path, console: Console) -> Path:
        if self.traffic is not None:
            if not self.traffic.is_file():
                raise OSError(f"--traffic is {self.traffic}, which is no file; allowed: a traffic file")
            return self.traffic.absolute()
        path = out / "traffic.jsonl"
        users, source = write_traffic(path, settings, dataset=self.dataset)
        console.print(f"traffic of {users:,} users: {source}", soft_wrap=True)
        return path

    def _limit(self, settings: ServingSettings) -> HistoryLimit:
        has_bundle = (settings.bundle / "manifest.json").is_file()
        return limit_of(settings.bundle) if has_bundle else HistoryLimit()


def takes_load(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `LoadOptions`, but those named, in place of its first parameter."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(LoadOptions, include_extras=True)
        shared = {option.name: option.default for option in fields(LoadOptions) if option.name not in without}

        @wraps(command)
        def run(**values: Any) -> None:
            command(LoadOptions(**{name: values.pop(name) for name in shared}), **values)

        own = list(inspect.signature(command).parameters.values())[1:]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
            for name, default in shared.items()
        ]
        parameters = [*(option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in own), *options]
        run.__dict__["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {option.name: option.annotation for option in parameters}
        return run

    return decorate


def checked_rate(rate: float | None) -> float | None:
    """Return a rate as it is. Raises `typer.BadParameter` with the value and what is allowed."""
    if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
        raise typer.BadParameter(f"--rate is {rate:g}; allowed: {LEAST_RATE:g} to {MOST_RATE:,}")
    return rate


def parse_mix(text: str, zipf: float) -> TrafficMix:
    """Return the mix of a text as `new=0.1,anonymous=0.2,returning=0.7`; a kind that is left out has none.

    Raises `typer.BadParameter` with the value and what is allowed.
    """
    try:
        shares = {
            name.strip(): float(share) for name, _, share in (part.partition("=") for part in text.split(","))
        }
        unknown = sorted(set(shares) - set(KINDS))
        if unknown:
            raise ValueError(f"kind is {unknown[0]}; allowed: {', '.join(KINDS)}")
        new, anonymous, returning = (shares.get(kind, 0.0) for kind in KINDS)
        return TrafficMix(new=new, anonymous=anonymous, returning=returning, zipf=zipf)
    except ValueError as error:
        raise typer.BadParameter(f"--mix is {text}: {error}; as {DEFAULT_MIX}") from None


def fail_if_broken(checks: Sequence[Check]) -> None:
    """End the command with code 1 and a line for each limit that was not kept."""
    if lines := broken(checks):
        typer.secho("\n".join(lines), fg="red", err=True)
        raise typer.Exit(1)
