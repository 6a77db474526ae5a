"""`frontier.html`: what every alpha of a sweep would earn, as one page that needs no network.

Vega-Lite draws it, whose code is in the page; the numbers are those of the policy card.
"""

from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Literal

import altair as alt

from experiments.frontier_rows import (
    ARM,
    EVERYONE,
    KINDS,
    MIXED,
    POLICY,
    PRODUCTION,
    WITH_INTERVAL,
    frontier_rows,
    number_columns,
)
from unipinrec.models.policy.card import Evidence, Interval, PolicyCard
from unipinrec.models.policy.choice import told_rail
from unipinrec.models.policy.sweep import LEAN_FIRST

PAGE = "frontier.html"

STYLE = """<style>
  body { font: 13px sans-serif; margin: 16px; }
  .chart-wrapper { display: flex; flex-direction: column; }
  .vega-bindings { order: -1; display: flex; flex-wrap: wrap; gap: 6px 20px; padding: 0 0 8px 44px; }
</style>"""
"""Puts what can be chosen above the chart."""

WIDTH, HEIGHT = 860, 500
LINE = 140
"""Characters of a line under the title."""

CHOSEN = "datum.chosen == 1"

GREY, DARK, RED, BROWN = "#b0b0b0", "#222222", "#d62728", "#a0713c"


def write_page(card: PolicyCard, path: Path) -> None:
    """Write the page of a card that has evidence."""
    path.write_text(frontier_html(card), encoding="utf-8")


def frontier_html(card: PolicyCard) -> str:
    """Return the page of a card that has evidence; raises as `frontier_chart` does."""
    html: str = frontier_chart(card).to_html(inline=True)
    head = f"<head>\n<title>{escape(_title(card))}</title>\n{STYLE}"
    return html.replace("<head>", head, 1)


def write_picture(card: PolicyCard, path: Path) -> None:
    """Draw what the page shows first into a PNG or SVG file."""
    frontier_chart(card).save(path, scale_factor=1.5)


def frontier_chart(card: PolicyCard) -> alt.LayerChart:
    """Return the chart of a card, with axes and groups of users to choose.

    Raises `ValueError` if the card has no evidence.
    """
    if card.evidence is None:
        raise ValueError("evidence is null; allowed: a card that `unipinrec policy sweep` made")
    sweep = card.evidence.sweep
    axes = _axes(card.rewards)
    table = frontier_rows(card, sweep)
    data = alt.InlineData(values=table, format=alt.CsvDataFormat(type="csv", parse=number_columns(table)))
    base = alt.Chart()
    # Points are on top, so that hovering finds them.
    below = [*_titles(axes), *_production(base), *_intervals(base), *_operating_points(base)]
    layers = [*below, *_points(base, card.rewards)]
    groups = {name: name for name in (EVERYONE, *sweep.cohorts)}
    chart: alt.LayerChart = (
        alt.layer(*layers, data=data)
        .transform_filter("datum.users == shown")
        .transform_calculate(**_places())
        .transform_filter("isValid(datum.x) && isValid(datum.y)")
        .add_params(
            _choice("across", "across ", axes, "lift_0"),
            _choice("up", "up ", axes, "lift_1"),
            _choice("shown", "users ", groups, EVERYONE),
            alt.param("bars", value=False, bind=alt.binding_checkbox(name="intervals of static weights ")),
        )
        .properties(
            width=WIDTH,
            height=HEIGHT,
            title=_heading(card, card.evidence),
            padding={"top": 8, "right": 12, "bottom": 36, "left": 36},
        )
        .configure_view(stroke=None)
        .interactive()
    )
    return chart


def _axes(rewards: tuple[str, str]) -> dict[str, str]:
    by_reward = {
        "lift": "lift of {} over production",
        "estimate": "{}, estimate (SNDR)",
        "hit": "{}, Reward@HIT",
        "weight": "mean weight of {}",
    }
    numbered = [
        (f"{key}_{m}", text.format(name)) for key, text in by_reward.items() for m, name in enumerate(rewards)
    ]
    return dict(numbered) | {"effective": "effective sample size", "hits": "hits", "alpha": "alpha"}


def _choice(name: str, label: str, options: dict[str, str], value: str) -> alt.Parameter:
    bind = alt.binding_select(options=list(options), labels=list(options.values()), name=label)
    return alt.param(name, value=value, bind=bind)


def _places() -> dict[str, str]:
    """Where marks and their intervals stand by the chosen axes; a number without interval stands alone."""
    places = {}
    for axis, letter in (("across", "x"), ("up", "y")):
        places[letter] = f"datum[{axis}]"
        for end in ("_low", "_high"):
            places[letter + end] = (
                f"isValid(datum[{axis} + '{end}']) ? datum[{axis} + '{end}'] : datum[{axis}]"
            )
    return places


def _x(field: str = "x") -> alt.X:
    return alt.X(field, type="quantitative", scale=alt.Scale(zero=False, padding=14), axis=_axis("across"))


def _y(field: str = "y") -> alt.Y:
    return alt.Y(field, type="quantitative", scale=alt.Scale(zero=False, padding=14), axis=_axis("up"))


def _axis(chosen: str) -> alt.Axis:
    number = f"format(datum.value, slice({chosen}, 0, 4) == 'lift' ? '+.1~%' : '.4~g')"
    return alt.Axis(title=None, labelExpr=number, gridColor="#eeeeee", tickCount=8)


def _colour() -> alt.Color:
    colours = {
        f"datum.dominated == 1 && datum.kind != '{PRODUCTION}'": GREY,
        f"datum.kind == '{PRODUCTION}'": RED,
        f"datum.kind == '{ARM}'": BROWN,
        f"datum.kind == '{MIXED}'": DARK,
    }
    return alt.Color(
        "alpha:Q",
        condition=[{"test": test, "value": colour} for test, colour in colours.items()],
        scale=alt.Scale(scheme="viridis", domain=[0, 1]),
        legend=alt.Legend(title="alpha", type="gradient", gradientLength=150),
    )


def _production(base: alt.Chart) -> list[alt.Chart]:
    lines = base.transform_filter(f"datum.kind == '{PRODUCTION}'").mark_rule(color=RED, strokeDash=[4, 4])
    return [lines.encode(x=_x()), lines.encode(y=_y())]


def _intervals(base: alt.Chart) -> list[alt.Chart]:
    faint = alt.when("datum.dominated == 1").then(alt.value(0.15)).otherwise(alt.value(0.5))
    shown = base.transform_filter(f"datum.kind != '{ARM}' || bars").mark_rule(color=DARK)
    return [
        shown.encode(x=_x("x_low"), x2="x_high:Q", y=_y(), opacity=faint),
        shown.encode(x=_x(), y=_y("y_low"), y2="y_high:Q", opacity=faint),
    ]


def _points(base: alt.Chart, rewards: tuple[str, str]) -> list[alt.Chart]:
    shapes = alt.Scale(domain=KINDS, range=["circle", "square", "diamond", "cross"])
    tooltips = _tooltips(rewards)
    path = base.transform_filter(f"datum.kind == '{POLICY}'")
    return [
        path.mark_line(color="#d0d0d0", strokeWidth=1).encode(x=_x(), y=_y(), order="alpha:Q"),
        base.transform_calculate(**{name: text for name, text in tooltips.values() if text})
        .mark_point(filled=True, opacity=1, size=80, invalid=None)
        .encode(
            x=_x(),
            y=_y(),
            color=_colour(),
            shape=alt.Shape("kind:N", scale=shapes, legend=alt.Legend(title=None, symbolFillColor=GREY)),
            tooltip=[alt.Tooltip(name, type="nominal", title=title) for title, (name, _) in tooltips.items()],
        ),
    ]


def _tooltips(rewards: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Return what hovering shows: by title the field, and its expression where it is a text of several."""
    shown = {
        "title": ("told", ""),
        "operating point": ("name", ""),
        "dominated": ("told_dominated", "datum.dominated == 1 ? 'yes' : 'no'"),
    }
    titles = {"lift": "lift of {}", "estimate": "{}, SNDR", "hit": "{}, Reward@HIT"}
    for number, reward in enumerate(rewards):
        for key in WITH_INTERVAL:
            field, form = f"{key}_{number}", "+.2%" if key == "lift" else ".4~f"
            ends = [f"format(datum.{field}{end}, '{form}')" for end in ("", "_low", "_high")]
            text = f"{ends[0]} + '  (' + {ends[1]} + ' to ' + {ends[2]} + ')'"
            shown[titles[key].format(reward)] = (f"told_{field}", text)
    for number, reward in enumerate(rewards):
        shown[f"mean weight of {reward}"] = (f"weight_{number}", "")
    return shown | {"hits": ("hits", ""), "effective sample size": ("effective", "")}


def _operating_points(base: alt.Chart) -> list[alt.Chart]:
    """Rings, and names on several sides of them."""
    rings = _named(base).mark_point(size=260, color=DARK, opacity=1)
    width = alt.when(CHOSEN).then(alt.value(4)).otherwise(alt.value(1.5))
    text = f"{CHOSEN} ? (datum.name ? 'chosen: ' + datum.name : 'chosen') : datum.name"
    told = _named(base).transform_calculate(text=text)
    # Of points by cohort, which are often close to those without, the chosen one alone has its name.
    sides: dict[str, tuple[Literal["left", "right"], int, int]] = {
        f"datum.kind == '{MIXED}' && {CHOSEN}": ("right", -12, 14),
        f"datum.kind != '{MIXED}' && datum.name == '{LEAN_FIRST}'": ("left", 12, 14),
        f"datum.kind != '{MIXED}' && datum.name != '{LEAN_FIRST}'": ("left", 12, -12),
    }
    names = [
        told.transform_filter(test)
        .mark_text(align=align, dx=dx, dy=dy, fontSize=12, fontWeight="bold", color=DARK)
        .encode(x=_x(), y=_y(), text="text:N")
        for test, (align, dx, dy) in sides.items()
    ]
    return [rings.encode(x=_x(), y=_y(), strokeWidth=width), *names]


def _named(base: alt.Chart) -> alt.Chart:
    return base.transform_filter(f"isValid(datum.name) && datum.name != '' || {CHOSEN}")


def _titles(axes: dict[str, str]) -> list[alt.Chart]:
    """Titles of the axes, as texts: those of an axis do not change with what is chosen."""
    once = alt.Chart(alt.InlineData(values=[{}]))
    told = {chosen: alt.expr(f"({axes!r})[{chosen}]") for chosen in ("across", "up")}
    return [
        once.mark_text(clip=False, fontWeight="bold", text=told["across"]).encode(
            x=alt.value(WIDTH / 2), y=alt.value(HEIGHT + 38)
        ),
        once.mark_text(clip=False, fontWeight="bold", text=told["up"], angle=270).encode(
            x=alt.value(-56), y=alt.value(HEIGHT / 2)
        ),
    ]


def _title(card: PolicyCard) -> str:
    return f"Policy {card.fingerprint[:12]}" + (": SYNTHETIC, from a simulated log" if card.synthetic else "")


def _heading(card: PolicyCard, evidence: Evidence) -> alt.TitleParams:
    sweep, everyone = evidence.sweep, evidence.sweep.everyone
    area, static, gain = everyone.hypervolume, everyone.arms_hypervolume, everyone.hypervolume_gain
    rails = (
        f"{rail.name} {told_rail(rail)}: {'holds' if rail.passed else 'FAILS'}" for rail in card.guardrails
    )
    texts = [
        f"Log {evidence.log.name}: {everyone.requests:,} explored requests of {everyone.users:,} users, held "
        f"out from training; {sweep.choosing.users:,} other users chose the operating points. "
        "Bars: 95\u00a0%, users resampled. Grey: dominated.",
        f"An arm is chosen for alpha x Q({card.rewards[1]}) + (1 - alpha) x Q({card.rewards[0]}).",
        f"Chosen: {card.why}",
        f"Guardrails: {'; '.join(rails)}.",
        f"Hypervolume beyond production, in lifts: {_told(area)}; static weights {_told(static)}; "
        f"gain {_told(gain)}.",
    ]
    return alt.TitleParams(
        _title(card),
        subtitle=[line for text in texts for line in wrap(text, LINE)],
        anchor="start",
        fontSize=17,
        subtitlePadding=6,
        offset=14,
    )


def _told(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"
