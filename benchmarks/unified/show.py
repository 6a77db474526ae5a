"""A benchmark's report as tables on a terminal and as pictures."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console

from benchmarks.unified.measures import ALONE
from benchmarks.unified.report import BenchReport, Row, Stages
from loadtest.render import Line, Panel, draw, table


def show(console: Console, report: BenchReport) -> None:
    """Print all of the report but its settings."""
    where = f"{report.machine.cores} cores of {report.machine.processor}"
    console.print(table(f"{where}; medians (least to most) over rounds", map(_row, report.rows)))
    ratios = [
        {
            "ratio": name,
            "median": f"{ratio.value:.2f}",
            "least": f"{ratio.low:.2f}",
            "most": f"{ratio.high:.2f}",
        }
        | {"in flight": f"{ratio.unified_concurrency} / {ratio.separate_concurrency}"}
        for name, ratio in report.ratios.items()
    ]
    in_process = [
        {"stack": stack, "one process, ms": f"{fmean(found.p50_ms):.1f}"}
        | {"served longer by ms": f"{found.overhead_ms:.1f}"}
        | {f"{found.processes} processes, users/s": f"{fmean(found.qps):.1f}", "at once": str(found.batch)}
        | {"served of that": f"{found.share_of_bound:.0%}"}
        for stack, found in report.in_process.items()
    ]
    if ratios:
        console.print(table("unified / separate, paired by round", ratios))
        console.print(table("the nodes without a server", in_process))
    console.print(table("ms of one request, mean: queue + compute", map(_stages, report.stages)))
    correctness = report.correctness
    checked = ", ".join(f"{count} of {stack}" for stack, count in correctness.checked.items())
    same = ", ".join(f"{stack} {share:.1%}" for stack, share in correctness.same_items.items())
    console.print(
        f"compared with offline PyTorch: {checked}; largest difference {correctness.largest_difference:.1e}, "
        f"allowed {correctness.tolerance:g}\n"
        f"results that exact search finds too ({report.settings['index']} index): {same}"
    )


def plot(report: BenchReport, folder: Path) -> None:
    """Write pictures of throughput and latency, of arrivals on a schedule, and of where time goes."""
    closed = [row for row in report.rows if row.arrival == "closed"]
    opened = [row for row in report.rows if row.arrival == "open"]
    levels = sorted({row.concurrency for row in closed if row.concurrency})
    in_flight = {"xlabel": "requests in flight", "xscale": "log"}
    rate = in_flight | {"title": "answered a second", "ylim": (0, None)}
    latencies = {"p50_ms": "p50 in ms", "p99_ms": "p99 in ms"}
    pictures = {
        "throughput": [Panel(lines=_lines(closed, "qps"), axes=rate, ticks=levels)],
        "arrivals": [],
        # One request at a time on the left, and under load on the right, on an axis of its own.
        "stages": [
            Panel(bars=_bars(report.stages, alone), axes={"xlabel": "ms of one request, mean"})
            for alone in (True, False)
        ],
    }
    for name, title in latencies.items():
        labels = {"title": title, "yscale": "log"}
        lines = _lines(closed, name)
        pictures["throughput"].append(Panel(lines=lines, axes=in_flight | labels, ticks=levels))
        labels |= {"xlabel": "Poisson arrivals a second", "title": f"{title}, from when due"}
        pictures["arrivals"].append(Panel(lines=_lines(opened, name), axes=labels))
    shape, sizes = report.shape, ("layers", "width", "max_history", "max_candidates", "num_items")
    title = (
        f"{report.machine.processor}, {report.machine.cores} cores; random weights, "
        f"{', '.join(f'{name} {shape[name]}' for name in sizes)}{', quick run' if report.quick else ''}"
    )
    for name, panels in pictures.items():
        if any(panel.lines or panel.bars for panel in panels):
            draw(folder / f"{name}.png", title, [panels], (12, 4.2))


def _row(row: Row) -> dict[str, str]:
    def over(name: str, digits: int) -> str:
        median, low, high = (f"{value:.{digits}f}" for value in (getattr(row, name), *row.spreads[name]))
        return median if low == high else f"{median} ({low} to {high})"

    return {
        "stack": row.stack,
        "load": f"{row.concurrency} in flight" if row.concurrency else f"{row.rate:.1f}/s",
        "answered/s": over("qps", 1),
        **{name.replace("_", " "): over(name, 0) for name in ("p50_ms", "p90_ms", "p99_ms")},
        "errors": str(row.errors),
        "prefix": f"{row.hit_share:.0%}",
        "client CPU": f"{row.client_cpu_share:.1%}",
    }


def _stages(stages: Stages) -> dict[str, str]:
    # Nodes of the same place have the same role in every stack.
    nodes = {
        node.node.removesuffix("_separate"): f"{node.queue_ms:.1f} + {node.compute_ms:.1f}"
        for node in stages.nodes
    }
    ends = {"rest": f"{stages.rest_ms:.1f}", "total": f"{stages.total_ms:.1f}"}
    return {"stack": stages.stack, "in flight": str(stages.concurrency)} | nodes | ends


def _lines(rows: Sequence[Row], name: str) -> dict[str, Line]:
    """Return a line for each stack, with the least and the most over rounds."""
    lines = {}
    for stack in dict.fromkeys(row.stack for row in rows):
        own = [row for row in rows if row.stack == stack]
        lines[stack] = Line(
            x=[row.concurrency or row.rate for row in own],
            y=[getattr(row, name) for row in own],
            ends=[row.spreads[name] for row in own],
        )
    return lines


def _bars(rows: Sequence[Stages], alone: bool) -> dict[str, dict[str, float]]:
    """Return the parts of a request's time for each stack, one request at a time or under load."""
    return {
        f"{stages.stack}\n{stages.concurrency} in flight": {
            f"{node.node.removesuffix('_separate')}: {part}": getattr(node, f"{part}_ms")
            for node in stages.nodes
            for part in ("queue", "compute")
        }
        | {"rest": max(stages.rest_ms, 0.0)}
        for stages in rows
        if (stages.concurrency == ALONE) == alone
    }
