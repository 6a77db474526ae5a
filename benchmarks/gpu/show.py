"""What one run found, as tables on the console."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.report import Answers, Bar, Forward, ForwardTable, GpuReport, Idle, Served
from benchmarks.report import Row

GIGA, MEBI = 1e9, 2**20


def show(console: Console, report: GpuReport) -> None:
    """Every part that was run, and all bars."""
    card = report.card
    console.print(
        f"{card.name}, driver {card.driver}, power limit {card.power_limit_w} W; "
        f"torch {card.torch}, CUDA {card.cuda}, shape {report.shape}"
    )
    if report.table:
        console.print(_forwards("ranking forward", report.table.forwards))
        console.print(_forwards("where else the time goes", report.table.parts))
        _print_rates(console, report.table)
    if report.idle:
        console.print(_idle(report.idle))
    if report.served:
        console.print(_rows("through Triton", report.served.rows))
        _print_passing(console, report.served)
    if report.arrivals:
        title = f"{report.arrivals.rate:g} arrivals a second, {report.arrivals.steps} generation steps"
        console.print(_rows(title, report.arrivals.rows))
    if report.answers:
        _print_answers(console, report.answers)
    console.print(_bars(report.bars))


def _forwards(title: str, forwards: Sequence[Forward]) -> Table:
    columns = (
        "line", "precision", "how", "ms (p10 to p90)", "speed-up", "paper", "largest diff.", "mean diff.",
        "same top 10", "of matrix rate", "of copy", "working MiB",
    )  # fmt: skip
    table = _table(title, columns, 3)
    for one in forwards:
        parity, timing = one.parity, one.timing
        table.add_row(
            one.title,
            one.precision,
            one.failure or one.mode,
            f"{timing.median_ms:.2f} ({timing.p10_ms:.2f} to {timing.p90_ms:.2f})" if timing else "-",
            _number(one.speed_up, "{:.2f}x"),
            _number(one.paper_speed_up, "{:.2f}x"),
            _number(parity.largest if parity else None, "{:.4f}"),
            _number(parity.mean if parity else None, "{:.5f}"),
            _number(parity.same_top if parity else None, "{:.1%}"),
            _number(one.matrix_share, "{:.0%}"),
            _number(one.copy_share, "{:.0%}"),
            _number(None if one.working_bytes is None else one.working_bytes / MEBI, "{:.0f}"),
        )
    return table


def _print_rates(console: Console, table: ForwardTable) -> None:
    rates = table.rates
    console.print(
        f"the card's own: {_number(_over(rates.bf16_flops, 1e12), '{:.0f}')} TFLOP/s in bfloat16, "
        f"{_number(_over(rates.float8_flops, 1e12), '{:.0f}')} in float8, "
        f"{_number(_over(rates.copy_bytes, GIGA), '{:.0f}')} GB/s of copies"
    )
    for remark in table.remarks:
        console.print(remark)


def _idle(found: Sequence[Idle]) -> Table:
    columns = ("batch", "rows", "ms", "ms with profiler", "ms busy", "outside kernels", "with profiler")
    table = _table("one batch of encode, generate and score in one process", columns, 1)
    for one in found:
        table.add_row(
            one.kind,
            str(one.batch),
            f"{one.wall_ms:.2f}",
            f"{one.profiled_wall_ms:.2f}",
            f"{one.busy_ms:.2f}",
            f"{one.outside_share:.1%}",
            f"{one.profiled_outside_share:.1%}",
        )
        for kernel in one.kernels:
            table.add_row(
                f"  {kernel.name}", f"{kernel.count:g}", "", "", "", f"{kernel.share:.1%} of busy", ""
            )
    return table


def _rows(title: str, rows: Sequence[Row]) -> Table:
    columns = ("stack", "load", "answered/s", "p50 ms", "p90 ms", "p99 ms", "errors", "prefix", "client CPU")
    table = _table(title, columns, 2)
    for row in rows:
        table.add_row(
            row.stack,
            f"{row.concurrency} in flight" if row.concurrency else f"{row.rate:g}/s",
            f"{row.qps:.1f}",
            f"{row.p50_ms:.1f}",
            f"{row.p90_ms:.1f}",
            f"{row.p99_ms:.1f}",
            str(row.errors),
            f"{row.hit_share:.0%}",
            f"{row.client_cpu_share:.1%}",
        )
    return table


def _print_passing(console: Console, served: Served) -> None:
    passing = served.passing
    largest = max(passing.tensors, key=lambda one: one.bytes)
    console.print(
        f"from node to node: {passing.bytes:,} bytes in {len(passing.tensors)} tensors, the largest "
        f"{largest.name} of {largest.node} with {largest.bytes:,}; {passing.keys_and_values_bytes} bytes of "
        f"keys and values, of which the slot holds {passing.cached_bytes:,}"
    )


def _print_answers(console: Console, answers: Answers) -> None:
    correctness = answers.correctness
    console.print(
        f"{answers.requests:,} random requests, {answers.concurrency} at once: "
        f"{len(correctness.differences)} differences beyond {correctness.tolerance:g}, largest "
        f"{correctness.largest_difference:.3f}, mean of each answer's largest {answers.mean_difference:.4f}; "
        f"keys and values from {answers.kv_source}; failed: {answers.failed or 'none'}"
    )


def _bars(bars: Sequence[Bar]) -> Table:
    table = _table("bars", ("what", "wanted", "measured", "met"), 1)
    for one in bars:
        met = "not measured" if one.met is None else "met" if one.met else "missed"
        table.add_row(one.name, one.wanted, _number(one.measured, "{:.3g}"), met)
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _table(title: str, columns: Sequence[str], left: int) -> Table:
    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right")
    return table
