"""A benchmark's report as tables on a terminal."""

from rich.console import Console
from rich.table import Table

from benchmarks.report import BenchReport, Row, Spread


def show(console: Console, report: BenchReport) -> None:
    """All of the report but its settings."""
    for table in (_rows(report), _ratios(report), _overhead(report), _stages(report)):
        if table.row_count:
            console.print(table)
    correctness = report.correctness
    checked = ", ".join(f"{count} of {stack}" for stack, count in correctness.checked.items())
    console.print(
        f"compared with offline PyTorch: {checked}; largest difference "
        f"{correctness.largest_difference:.1e}, allowed {correctness.tolerance:g}"
    )
    same = ", ".join(f"{stack} {share:.1%}" for stack, share in correctness.same_items.items())
    console.print(f"results that exact search finds too ({report.settings['index']} index): {same}")


def _rows(report: BenchReport) -> Table:
    table = _table(
        f"{report.machine.cores} cores of {report.machine.processor}; medians (least to most) over rounds",
        ("stack", "load", "answered/s", "p50 ms", "p90 ms", "p99 ms", "errors", "prefix", "client CPU"),
        ("stack", "load"),
    )
    for row in report.rows:
        table.add_row(
            row.stack,
            _load(row),
            _spread(row.spreads["qps"], 1),
            *(_spread(row.spreads[name], 0) for name in ("p50_ms", "p90_ms", "p99_ms")),
            str(row.errors),
            f"{row.hit_share:.0%}",
            f"{row.client_cpu_share:.1%}",
        )
    return table


def _ratios(report: BenchReport) -> Table:
    table = _table(
        "unified / separate, paired by round",
        ("ratio", "median", "least", "most", "in flight"),
        ("ratio",),
    )
    for name, one in report.ratios.items():
        table.add_row(
            name,
            f"{one.value:.2f}",
            f"{one.low:.2f}",
            f"{one.high:.2f}",
            f"{one.unified_concurrency} / {one.separate_concurrency}",
        )
    return table


def _overhead(report: BenchReport) -> Table:
    table = _table(
        "served, beside the nodes in one process without a server",
        ("stack", "in process ms", "served ms", "overhead ms", "bound/s", "batch", "served/s", "of bound"),
        ("stack",),
    )
    for stack, overhead in report.overhead.items():
        bound = report.bound[stack]
        table.add_row(
            stack,
            f"{overhead.in_process_p50_ms:.1f}",
            f"{overhead.served_p50_ms:.1f}",
            f"{overhead.overhead_ms:.1f}",
            f"{bound.in_process_qps:.1f}",
            str(bound.batch),
            f"{bound.best_served_qps:.1f}",
            f"{bound.share_of_bound:.0%}",
        )
    return table


def _stages(report: BenchReport) -> Table:
    table = _table(
        "ms of one request, mean: queue + compute",
        ("stack", "in flight", "history", "retrieval", "ann", "ranking", "rest", "total"),
        ("stack",),
    )
    for one in report.stages:
        table.add_row(
            one.stack,
            str(one.concurrency),
            *(f"{node.queue_ms:.1f} + {node.compute_ms:.1f}" for node in one.nodes),
            f"{one.rest_ms:.1f}",
            f"{one.total_ms:.1f}",
        )
    return table


def _load(row: Row) -> str:
    return f"{row.concurrency} in flight" if row.concurrency else f"{row.rate:.1f}/s"


def _spread(over: Spread, digits: int) -> str:
    median, low, high = (f"{value:.{digits}f}" for value in (over.median, over.low, over.high))
    return median if low == high else f"{median} ({low} to {high})"


def _table(title: str, columns: tuple[str, ...], left: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table
