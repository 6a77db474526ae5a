"""`unipinrec image-check`: the image for CPU hosts, built, started, asked and stopped."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from unipinrec_client import RecommendError

from benchmarks.random_bundle import make_random_bundle
from commands.errors import NO_ENGINE, one_line_errors
from containers.base import make_base
from containers.check import Report, build, try_one
from containers.compose import ComposeError
from containers.engine import Engine, EngineError, NoEngineError
from containers.host_pip import build_options, pip_settings
from containers.proxy import ProxyError
from containers.scale import try_three
from containers.shared_store import shared_store

FOLDER = Path("build/image-check")
ITEMS = 500


def image_check(
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to serve; default: build/bundles/current, or a random one.")
    ] = None,
    base: Annotated[
        Literal["pull", "debian"],
        typer.Option(help="The Dockerfile's base image, or one of Debian's packages (root, mmdebstrap)."),
    ] = "pull",
    host_pip: Annotated[
        bool, typer.Option("--host-pip", help="Build with the pip settings of this host (podman).")
    ] = False,
    scale: Annotated[
        bool, typer.Option("--scale", help="Try three replicas behind this host's HAProxy too.")
    ] = False,
    out: Annotated[Path, typer.Option(help="File of the report.")] = FOLDER / "report.json",
) -> None:
    """Build docker/Dockerfile.cpu, run it confined as docker/compose.yaml has it, ask it and stop it.

    Exit code 3 without docker or podman.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with one_line_errors(NoEngineError, code=NO_ENGINE):
        engine = Engine.find(console.print)
    with one_line_errors(EngineError, ComposeError, ProxyError, RecommendError, code=1):
        FOLDER.mkdir(parents=True, exist_ok=True)
        served = bundle.absolute() if bundle else _some_bundle(console)
        report = Report(engine=engine.run("--version"), bundle=served.resolve().name, steps=engine.steps)
        try:
            options = [f"--build-arg=PYTHON_IMAGE={make_base(engine)}"] if base == "debian" else []
            if host_pip:
                options += build_options(pip_settings(), FOLDER)
            build(engine, report, options)
            with shared_store() as stores:
                try_one(engine, report, served, stores)
            if scale:
                report.scale = try_three(engine, served)
        finally:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(asdict(report), indent=2) + "\n")
    console.print(
        f"image-check passed: {report.image_bytes / 1e6:,.0f} MB, built in {report.build_s:.0f} s, "
        f"healthy after {report.healthy_s:.1f} s, stopped in {report.stop_s:.1f} of {report.grace_s:g} s; "
        f"report written to {out}"
    )


def _some_bundle(console: Console) -> Path:
    current = Path("build/bundles/current").absolute()
    if current.exists():
        return current
    return make_random_bundle(ITEMS, FOLDER.absolute() / "random", console.print, sizes="tiny").folder
