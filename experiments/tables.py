"""Results as a page that people read: a table for each dataset, paired differences, and plots."""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import matplotlib.pyplot as plt

from experiments.report import Difference, EvaluationReport, Row
from unipinrec.evaluation.bootstrap import Estimate

TITLES = {
    "amazon": "Amazon Beauty",
    "ebnerd": "EB-NeRD",
    "kuairand": "KuaiRand",
    "lifelong": "Simulator, lifelong interests",
    "mind": "MIND",
    "movielens": "MovieLens 100K",
    "simulator": "Simulator",
}
PROTOCOLS = {
    "leave_one_out": "Leave one out: each user's last event is sought in the full catalogue, without the "
    "user's own history; the one before it was for validation.",
    "future_feedviews": "Split in time, the same for everyone. Slates after the cut are ranked (hit@3, AUC, "
    "gAUC); each one's first new item with a positive action is sought in the full catalogue (recall@10).",
}
SWEEPS = {
    "p_mask": "chance that a history action is masked",
    "layers": "layers",
    "events": "events of history",
}
HEAD = """# Results

Made by `make tables` from the reports of `make eval DATASET=…`. Brackets are 95 % bootstrap intervals over
users, of values averaged over seeds first. They say what other users would change, not what other seeds
would; each seed's own means are in the report. Seconds of training are those of one thread beside other
trainings, and compare only roughly.
"""


def write_tables(reports: Sequence[EvaluationReport], page: Path, pictures: Path) -> None:
    """Write the page, and its plots beside it."""
    pictures.mkdir(parents=True, exist_ok=True)
    parts = [HEAD]
    for report in reports:
        parts += _section(report)
        parts += [f"![{alt}]({pictures.name}/{path.name})" for alt, path in _plots(report, pictures)]
    page.write_text("\n".join(parts) + "\n")


def _section(report: EvaluationReport) -> list[str]:
    machine, synthetic = report.machine, " (synthetic data)" if report.synthetic else ""
    spent = f"{report.minutes:.0f} minutes" if report.minutes is not None else "Trained in several runs"
    return [
        f"\n## {TITLES[report.dataset]}{synthetic}\n",
        f"{PROTOCOLS[report.protocol]} {report.users:,} users, {report.items:,} items. "
        f"{spent} on {machine.cores} cores "
        f"({machine.processor}, torch {machine.torch}).\n",
        *_table(report.rows, report.differences),
        *(
            line
            for section in report.sections
            for line in (
                f"### {section.title}\n",
                f"{section.what}\n",
                *_table(section.rows, section.differences),
            )
        ),
    ]


def _table(rows: Sequence[Row], differences: Sequence[Difference]) -> list[str]:
    """A row each, without columns that no row fills, and the differences."""
    made = [_cells(row) for row in rows]
    names = list(dict.fromkeys(name for cells in made for name in cells))
    lines = [f"| {' | '.join(['model', *names])} |", f"|---|{'---|' * len(names)}"]
    for row, cells in zip(rows, made, strict=True):
        shown = [cells.get(name, "") for name in names]
        lines.append(f"| {row.model} ({row.what}) | {' | '.join(shown)} |")
    lines.append("")
    if differences:
        lines.append("Paired differences over the same users; one whose interval leaves out 0 is marked.\n")
        lines += ["| | metric | difference |", "|---|---|---|", *map(_difference, differences), ""]
    return lines


def _cells(row: Row) -> dict[str, str]:
    cells = {name: _shown(metric) for name, metric in row.metrics.items()}
    cells |= {name: f"{value:.4f}" for name, value in row.totals.items()}
    if row.seeds:
        cells["seeds"] = str(len(row.seeds))
    if row.parameters:
        cells["parameters"] = f"{row.parameters:,}"
    if row.flops:
        cells["GFLOPs a forward"] = f"{row.flops / 1e9:.3f}"
    if row.training_seconds:
        cells["seconds of training"] = f"{sum(row.training_seconds) / len(row.training_seconds):.0f}"
    return cells


def _difference(pair: Difference) -> str:
    certain = " *" if pair.estimate.low > 0 or pair.estimate.high < 0 else ""
    return f"| {pair.a} - {pair.b} | {pair.metric} | {_shown(pair.estimate, sign=True)}{certain} |"


def _shown(estimate: Estimate, sign: bool = False) -> str:
    form = "{:+.4f}" if sign else "{:.4f}"
    mean, low, high = (form.format(value) for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} ({low} to {high})"


def _plots(report: EvaluationReport, pictures: Path) -> list[tuple[str, Path]]:
    made = []
    curves = [row for row in report.rows if row.losses]
    if curves:
        path = pictures / f"{report.dataset}-training.png"
        _plot_losses(curves, path)
        made.append((f"Training loss on {TITLES[report.dataset]}", path))
    for name, label in SWEEPS.items():
        swept = [row for row in report.rows if row.model.startswith(f"{name}=")]
        if swept:
            points = sorted(
                ((row.settings[name], row) for row in [*swept, report.rows[0]]), key=itemgetter(0)
            )
            path = pictures / f"{report.dataset}-{name}.png"
            _plot_sweep(points, label, path)
            made.append((f"{TITLES[report.dataset]} by {label}", path))
    return made


def _plot_losses(rows: Sequence[Row], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, name in zip(axes, ("retrieval", "candidate_actions"), strict=True):
        for row in rows:
            points = row.losses.get(name, ())
            if any(value > 0 for _, value in points):
                axis.plot(*zip(*points, strict=True), label=row.model)
        axis.set(xlabel="epoch", ylabel=f"{name.replace('_', ' ')} loss")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=6)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_sweep(points: Sequence[tuple[float, Row]], label: str, path: Path) -> None:
    appeared = dict.fromkeys(name for _, row in points for name in row.metrics)
    metrics = [name for name in appeared if name.startswith(("hit@", "recall@"))]
    figure, axes = plt.subplots(1, len(metrics), figsize=(2.6 * len(metrics), 2.6), layout="constrained")
    for axis, name in zip(axes.flat if len(metrics) > 1 else [axes], metrics, strict=True):
        found = [(value, row.metrics[name]) for value, row in points if name in row.metrics]
        value_X, means = [value for value, _ in found], [metric.mean for _, metric in found]
        below = [metric.mean - metric.low for _, metric in found]
        above = [metric.high - metric.mean for _, metric in found]
        axis.errorbar(value_X, means, yerr=[below, above], marker="o", capsize=3)
        axis.set(xlabel=label, title=name, xticks=value_X)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
