"""`unipinrec eval`: train and evaluate from scratch on one dataset, and make tables of it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands import fetch
from commands.errors import one_line_errors
from experiments.gate import GateConfig, run_gate
from experiments.policy.page import write_page
from experiments.policy.report import PolicyStudyReport
from experiments.policy.study import PolicyStudy, quick_study
from experiments.recipes import ABLATIONS, RECIPES, TUNING
from experiments.report import EvaluationReport
from experiments.rivals.study import RivalStudy
from experiments.runner import Runner
from experiments.tables import write_tables
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.simulator.config import LIFELONG, SimulatorConfig
from unipinrec.simulator.simulation import prepare_simulation
from unipinrec.simulator.truth import Truth
from unipinrec.training.checkpoint import CheckpointMismatchError

GATE = "gate"
POLICIES = "policy"
POLICY_REPORT = f"{POLICIES}.json"
RIVALS = "rivals"
COMMITTED_POLICY = Path("benchmarks/results/policy/comparison.json")

COMMITTED = Path("benchmarks/results/eval")
"""Reports worth keeping; tables are made of these where build/eval has none."""


def eval_command(
    dataset: Annotated[
        str, typer.Argument(help=f"One of {', '.join(RECIPES)}, {POLICIES}, {GATE}, {RIVALS}.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Prepared dataset, made when it is missing; default: build/data/DATASET."),
    ] = None,
    path: Annotated[
        Path | None, typer.Option(help="Local files to prepare it from, without a download.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Variants, with commas between; default: all.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, with commas between; default: the recipe's.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Models trained at once, one thread each.")
    ] = os.cpu_count() or 1,
    out: Annotated[Path, typer.Option(help="Folder of reports and checkpoints.")] = Path("build/eval"),
    quick: Annotated[
        bool, typer.Option(help=f"Of {POLICIES}: a small dry run, into OUT/{POLICIES}-quick.json.")
    ] = False,
    ablations: Annotated[
        bool,
        typer.Option(
            help=f"Of {', '.join(ABLATIONS)}: second rankers without one thing each, into "
            f"OUT/DATASET-ablations.json."
        ),
    ] = False,
    tuning: Annotated[
        bool,
        typer.Option(
            help=f"Of {', '.join(TUNING)}: settings of the second ranker, compared on training dates alone, "
            f"into OUT/DATASET-tuning.json."
        ),
    ] = False,
) -> None:
    """Train every model of a dataset's recipe, measure them on held-out data, and write OUT/DATASET.json.

    `policy` compares learned utility weights with other learners in simulated worlds that it makes; `gate`
    asks of such worlds whether whole histories tell more than their latest events. `rivals` trains another
    library's rankers on KuaiRand, or on the dataset that --data names.
    """
    console = Console(highlight=False, soft_wrap=True)
    with one_line_errors(PreparedDatasetError, CheckpointMismatchError, ValueError):
        if dataset == POLICIES:
            _compare_policies(_numbers(seeds) if seeds else None, workers, out, quick, console)
            return
        if dataset == GATE:
            config = GateConfig(seeds=tuple(_numbers(seeds))) if seeds else GateConfig()
            run_gate(out / GATE, config, console.print).write(out / f"{GATE}.json")
            console.print(f"report written to {out / GATE}.json")
            return
        if dataset == RIVALS:
            _compare_rivals(data or Path("build/data/kuairand"), path, out, console)
            return
        if dataset not in RECIPES:
            raise ValueError(
                f"dataset is {dataset}; allowed: {', '.join((*RECIPES, POLICIES, GATE, RIVALS))}"
            )
        if ablations and dataset not in ABLATIONS:
            raise ValueError(f"dataset is {dataset}; allowed with --ablations: {', '.join(ABLATIONS)}")
        if tuning and (ablations or dataset not in TUNING):
            raise ValueError(f"dataset is {dataset}; allowed with --tuning alone: {', '.join(TUNING)}")
        kind = "-ablations" if ablations else "-tuning" if tuning else ""
        recipe = (ABLATIONS if ablations else TUNING if tuning else RECIPES)[dataset].narrowed(
            only.split(",") if only else None, _numbers(seeds) if seeds else None
        )
        folder = data or Path("build/data", dataset)
        if not folder.exists():
            _prepare(dataset, path, folder, console)
        truth = Truth.load(folder) if recipe.synthetic else None
        # What is tuned was trained on another part of the data, and may not be taken for the rest.
        kept = out / (f"{dataset}{kind}" if tuning else dataset)
        runner = Runner(recipe, InteractionDataset.load(folder), kept, console.print, truth)
        report = runner.run(workers)
        written = out / f"{dataset}{kind}.json"
        report.write(written)
        console.print(f"report written to {written}")


def tables_command(
    reports: Annotated[Path, typer.Option(help="Folder of reports.")] = Path("build/eval"),
    page: Annotated[Path, typer.Option(help="Page to write.")] = Path("docs/results.md"),
) -> None:
    """Turn the reports of `unipinrec eval` into a page with plots."""
    found = []
    for dataset in RECIPES:
        path = next(
            (p / f"{dataset}.json" for p in (reports, COMMITTED) if (p / f"{dataset}.json").exists()), None
        )
        if path is None:
            typer.echo(f"{dataset}: no report; run `unipinrec eval {dataset}`")
            continue
        found.append(EvaluationReport.model_validate_json(path.read_text()))
    write_tables(found, page, page.parent / "results")
    typer.echo(f"{len(found)} datasets written to {page}")
    compared = next((p for p in (reports / POLICY_REPORT, COMMITTED_POLICY) if p.exists()), None)
    if compared is None:
        typer.echo(f"{POLICIES}: no report; run `unipinrec eval {POLICIES}`")
        return
    policy_page = page.parent / "policy-results.md"
    write_page(
        PolicyStudyReport.model_validate_json(compared.read_text()), policy_page, page.parent / "pictures"
    )
    typer.echo(f"policies written to {policy_page}")


def _compare_policies(
    seeds: list[int] | None, workers: int, out: Path, quick: bool, console: Console
) -> None:
    name = f"{POLICIES}-quick" if quick else POLICIES
    study = quick_study(out / name) if quick else PolicyStudy(folder=out / name)
    if seeds:
        study = replace(study, seeds=tuple(seeds))
    written = out / f"{name}.json"
    study.run(workers, console.print).write(written)
    console.print(f"report written to {written}")


def _compare_rivals(data: Path, path: Path | None, out: Path, console: Console) -> None:
    if not data.exists():
        _prepare("kuairand", path, data, console)
    interactions = InteractionDataset.load(data)
    name = f"{RIVALS}-{interactions.info.name}"
    written = out / f"{name}.json"
    RivalStudy.of(interactions, out / name).run(console.print).write(written)
    console.print(f"report written to {written}")


def _numbers(seeds: str) -> list[int]:
    if not all(seed.isdecimal() for seed in seeds.split(",")):
        raise ValueError(f"seeds is {seeds}; allowed: whole numbers from 0 on, with commas between")
    return [int(seed) for seed in seeds.split(",")]


def _prepare(dataset: str, path: Path | None, folder: Path, console: Console) -> None:
    if dataset == "simulator":
        prepare_simulation(folder, SimulatorConfig(users=3_000, items=2_000), console.print)
    elif dataset == "lifelong":
        prepare_simulation(folder, LIFELONG, console.print)
    else:
        # Its command has the dataset's name.
        getattr(fetch, dataset)(path, folder)
