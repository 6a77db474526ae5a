"""Options that all commands of load share, and what they amount to."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from unipinrec_client.client import check_timeout

from commands.load_target import LoadTarget, limit_of, target_of, write_traffic
from ensemble.settings import ServingSettings
from loadtest.plan import LoadPlan, Protocol
from loadtest.traffic import HistoryLimit, TrafficMix

Url = Annotated[
    str | None, typer.Option(help="host:port of a running server; default: one of its own on free ports.")
]
MetricsUrl = Annotated[
    str | None, typer.Option(help="Triton's metrics of that server, as http://host:8002/metrics.")
]
ProtocolOption = Annotated[Protocol, typer.Option(help="How requests travel.")]
Bundle = Annotated[Path | None, typer.Option(help="Bundle to serve; default: the current one.")]
Histories = Annotated[
    Path | None, typer.Option(help="Store to serve and replay histories of; default: UNIPINREC_HISTORIES.")
]
Dataset = Annotated[Path | None, typer.Option(help="Prepared dataset whose histories are replayed.")]
TrafficFile = Annotated[Path | None, typer.Option("--traffic", help="Traffic file that is replayed.")]
Mix = Annotated[str, typer.Option(help="Shares of new, anonymous and returning callers.")]
Zipf = Annotated[
    float, typer.Option(min=0, max=10, help="Users return with a share of 1 / rank^zipf; 0: evenly.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all traffic.")]
Workers = Annotated[int, typer.Option(min=1, max=256, help="Processes that generate load.")]
Results = Annotated[int, typer.Option(min=1, help="NUM_RESULTS of each request.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds until a request counts as failed.")]
Out = Annotated[Path, typer.Option(help="Folder of everything that is written.")]

DEFAULT_MIX = "new=0.1,anonymous=0.2,returning=0.7"
DEFAULT_OUT = Path("build/loadtest")
LOG_WIDTH = 140
KINDS = ("new", "anonymous", "returning")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Where load goes and what it is made of."""

    url: str | None
    metrics_url: str | None
    protocol: Protocol
    bundle: Path | None
    histories: Path | None
    dataset: Path | None
    traffic: Path | None
    mix: TrafficMix
    seed: int
    workers: int
    num_results: int
    timeout_s: float
    out: Path

    @property
    def settings(self) -> ServingSettings:
        """The environment's, with the bundle and the store of the command line."""
        chosen = {"bundle": self.bundle, "histories": self.histories}
        return ServingSettings.model_validate(
            {name: path.absolute() for name, path in chosen.items() if path is not None}
        )

    @contextmanager
    def running(self, console: Console) -> Iterator[tuple[LoadTarget, LoadPlan]]:
        """The server, and a plan without stages.

        Raises:
            ServerError: the server does not answer or start.
            PreparedDatasetError: the dataset cannot be read.
            StoreError: the store of histories cannot be read.
            ValueError: an address or the timeout cannot be.
        """
        check_timeout(self.timeout_s)
        # A SIGTERM ends the run in order too, with the server stopped and its shared memory removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        out = self.out.absolute()
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
            yield (
                target,
                LoadPlan(
                    url=target.url,
                    protocol=self.protocol,
                    workers=self.workers,
                    traffic=str(traffic),
                    mix=self.mix,
                    limit=self._limit(settings),
                    seed=self.seed,
                    num_results=self.num_results,
                    timeout_s=self.timeout_s,
                    outcomes=str(out / "outcomes.csv"),
                ),
            )

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


def parse_mix(text: str, zipf: float) -> TrafficMix:
    """`new=0.1,anonymous=0.2,returning=0.7`; a kind that is left out has none.

    Raises `typer.BadParameter` with the value and what is allowed.
    """
    try:
        shares = {
            name.strip(): float(share) for name, _, share in (part.partition("=") for part in text.split(","))
        }
        unknown = sorted(set(shares) - set(KINDS))
        if unknown:
            raise ValueError(f"kind is {unknown[0]}; allowed: {', '.join(KINDS)}")
        return TrafficMix(**{kind: shares.get(kind, 0.0) for kind in KINDS}, zipf=zipf)
    except ValueError as error:
        raise typer.BadParameter(f"--mix is {text}: {error}; as {DEFAULT_MIX}") from None


def load_console() -> Console:
    """As wide as a log where no terminal says how wide it is."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console
