"""The comparison of policies as a page that people read, and a picture of all frontiers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy.stats import t as student

from experiments.policy.judging import POLICY, SAME_WEIGHTS, STATICS
from experiments.policy.report import Family, PolicyStudyReport, SeedReport
from unipinrec.arrays import Float64s
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.evaluation.pareto import frontier
from unipinrec.models.policy.sweep import KNEE

PICTURES, PICTURE = "pictures", "policy-frontiers.png"
LEVEL = 0.95
STYLES = {POLICY: "C3o-", STATICS: "k.", SAME_WEIGHTS: "C7s"}

MEASURES: dict[str, Callable[[SeedReport, Family], float]] = {
    "hypervolume": lambda _, family: family.hypervolume,
    "beyond production x 10,000": lambda _, family: family.beyond_production * 1e4,
    "regret x 1,000": lambda _, family: family.regret * 1e3,
    "regret / static": lambda _, family: family.regret_over_static,
}


def over_seeds(value_X: Sequence[float]) -> Estimate:
    """Return the mean with the 95 % interval of Student's t over worlds; of one world, without a width."""
    mean = float(np.mean(value_X))
    if len(value_X) < 2:
        return Estimate(mean, mean, mean)
    error = float(np.std(value_X, ddof=1) / np.sqrt(len(value_X)))
    half = float(student.ppf((1 + LEVEL) / 2, len(value_X) - 1)) * error
    return Estimate(mean, mean - half, mean + half)


def write_page(report: PolicyStudyReport, page: Path, pictures: Path) -> None:
    """Write the page, and its picture into a folder."""
    pictures.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    _plot(report, pictures / PICTURE)
    parts = [_head(report), *_families(report), *_comparisons(report), *_predictions(report)]
    parts += [*_points(report), *_groups(report), *_partial(report)]
    page.write_text("\n".join(parts) + "\n")


def _head(report: PolicyStudyReport) -> str:
    first, machine = report.seeds[0], report.machine
    spent = f"{report.minutes:.0f} minutes" if report.minutes is not None else "Made in several runs"
    warnings = [f"\n**Left out:** {line}.\n" for line in report.skipped]
    if report.quick:
        warnings.append("\n**A quick run, too small to say anything.**\n")
    return f"""# Learned utility weights where the truth is known (SYNTHETIC)
{"".join(warnings)}
Made by `unipinrec eval policy` in {len(report.seeds)} simulated worlds, each with its own users, items, logs
and trainings. In each, everyone learns from the same explored requests, {first.training_requests:,} of
{first.training_users:,} users in world {first.seed}, and is judged in later ones of other users, there
{first.evaluation_requests:,} of {first.evaluation_users:,} users, by the exact expected reward of every arm.
Requests explore far more often here than a product's would; that share says only how much traffic such a log
takes. [policy-learning.md](policy-learning.md#what-was-tried) has how settings were chosen, everyone's.
{spent} on {machine.cores} cores ({machine.processor}). Brackets are 95 % intervals of Student's t over
worlds.

Hypervolume is the area that a family's policies dominate above the worst static arm in each reward, over the
area up to an oracle's best of each. Regret is against the best arm of each single request, whose candidates
nobody knows beforehand; it is the mean over 25 alphas of alpha x {report.rewards[1]} + (1 - alpha) x
{report.rewards[0]}.
"""


def _families(report: PolicyStudyReport) -> list[str]:
    names = [family.name for family in report.seeds[0].families]
    return [
        *_table(report, names, lambda seed: seed.families),
        f"![Frontiers of everyone, synthetic]({PICTURES}/{PICTURE})\n",
    ]


def _table(
    report: PolicyStudyReport, names: Sequence[str], of: Callable[[SeedReport], Sequence[Family]]
) -> list[str]:
    lines = [f"| | {' | '.join(MEASURES)} | s of processor |", f"|---|{'---|' * (len(MEASURES) + 1)}"]
    for name in names:
        found = [
            (seed, next(family for family in of(seed) if family.name == name))
            for seed in report.seeds
            if of(seed)
        ]
        cells = [shown(over_seeds([measure(*each) for each in found])) for measure in MEASURES.values()]
        seconds = [family.seconds for _, family in found if family.seconds is not None]
        cells.append(f"{np.mean(seconds):.0f}" if seconds else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _comparisons(report: PolicyStudyReport) -> list[str]:
    lines = [
        "The policy against the others, over worlds, and in each world with intervals over its users:\n",
        "| policy against | hypervolume, difference | by world | regret, ratio | by world |",
        "|---|---|---|---|---|",
    ]
    for place, first in enumerate(report.seeds[0].comparisons):
        found = [seed.comparisons[place] for seed in report.seeds]
        cells = [first.other]
        for estimates, sign in (
            ([each.hypervolume for each in found], True),
            ([each.regret_ratio for each in found], False),
        ):
            cells.append(shown(over_seeds([estimate.mean for estimate in estimates]), sign))
            cells.append("; ".join(shown(estimate, sign) for estimate in estimates))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _predictions(report: PolicyStudyReport) -> list[str]:
    lines = [
        "Predicted against true lift over production, 25 alphas; predictions see only logged arms, "
        "propensities and drawn rewards:\n",
        "| estimator | reward | Pearson | mean absolute error |",
        "|---|---|---|---|",
    ]
    for place, first in enumerate(report.seeds[0].predictions):
        found = [seed.predictions[place] for seed in report.seeds]
        pearson, error = (
            over_seeds([getattr(each, name) for each in found]) for name in ("pearson", "error")
        )
        lines.append(f"| {first.estimator} | {first.reward} | {shown(pearson)} | {shown(error)} |")
    return [*lines, ""]


def _points(report: PolicyStudyReport) -> list[str]:
    lines = [
        "Operating points, picked by estimates on half of the held-out users, with true numbers of the other "
        "half:\n",
        f"| | point | alphas | lift of {report.rewards[0]} | lift of {report.rewards[1]} | regret / static |",
        "|---|---|---|---|---|---|",
    ]
    for family in report.seeds[0].families:
        for place, point in enumerate(family.operating_points):
            found = [seed.family(family.name).operating_points[place] for seed in report.seeds]
            if family.name != POLICY and point.name != KNEE:
                continue
            cells = [family.name, point.name, ", ".join(f"{each.alpha:.2f}" for each in found)]
            cells += [shown(over_seeds([each.lift[m] for each in found]), sign=True) for m in range(2)]
            cells.append(shown(over_seeds([each.regret / each.static_regret for each in found])))
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _groups(report: PolicyStudyReport) -> list[str]:
    lines = [
        "Where the policy's regret comes from:\n",
        "| requests | share of all | regret / static |",
        "|---|---|---|",
    ]
    for place, first in enumerate(report.seeds[0].groups):
        found = [seed.groups[place] for seed in report.seeds]
        share, regret = (
            over_seeds([getattr(each, name) for each in found]) for name in ("share", "regret_over_static")
        )
        lines.append(f"| {first.name} | {share.mean:.0%} | {shown(regret)} |")
    return [*lines, ""]


def _partial(report: PolicyStudyReport) -> list[str]:
    seeds = [seed for seed in report.seeds if seed.partial]
    if not seeds:
        return []
    told = ", ".join(str(seed.seed) for seed in seeds)
    names = [family.name for family in seeds[0].partial]
    return [
        f"What the state's parts are worth, in world {told}:\n",
        *_table(report, names, lambda seed: seed.partial),
    ]


def shown(estimate: Estimate, sign: bool = False) -> str:
    """Return an estimate as a text; of one world only the number."""
    form = "{:+.4f}" if sign else "{:.4f}"
    mean, low, high = (form.format(value) for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} ({low} to {high})" if low != high else mean


def _plot(report: PolicyStudyReport, path: Path) -> None:
    seeds = report.seeds
    figure, axes = plt.subplots(
        1, len(seeds), figsize=(4.6 * len(seeds), 4.4), layout="constrained", squeeze=False
    )
    for axis, seed in zip(axes[0], seeds, strict=True):
        production_M = np.array(seed.production)
        for number, family in enumerate(seed.families):
            lift_X2 = 100 * (np.array(family.points) / production_M - 1)
            _line(axis, family.name, lift_X2, number)
        oracle_A2 = 100 * (np.array(seed.oracle) / production_M - 1)
        axis.plot(*oracle_A2.T, "C2--", linewidth=1, label="oracle of each request")
        axis.plot(0, 0, "k*", markersize=11, label="production")
        axis.set(
            title=f"world {seed.seed} (synthetic)",
            xlabel=f"true lift of {report.rewards[0]}, %",
            ylabel=f"true lift of {report.rewards[1]}, %",
        )
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axis: Axes, name: str, lift_X2: Float64s, number: int) -> None:
    style = STYLES.get(name, f"C{(0, 1, 4, 5)[number % 4]}v-")
    if name == STATICS:
        axis.plot(*lift_X2.T, style, markersize=4, alpha=0.4)
        axis.plot(*lift_X2[frontier(lift_X2)].T, "k-", linewidth=1, label=name)
        return
    axis.plot(*lift_X2.T, style, markersize=4, linewidth=1, label=name)
