"""The numbers of a policy card as rows, one for each mark of the page."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator

from unipinrec.models.policy.card import Alphas, Candidate, Frontier, PolicyCard, PolicyNumbers, Sweep
from unipinrec.models.policy.choice import told_alphas
from unipinrec.models.policy.sweep import BY_COHORT

EVERYONE = "everyone"
"""The group of all users, beside the cohorts."""

POLICY, MIXED, ARM, PRODUCTION = KINDS = ("one alpha", "alpha by cohort", "static", "production")

WITH_INTERVAL = ("lift", "estimate", "hit")
DIGITS, DIGITS_OF_ENDS = 4, 3
"""Significant digits of numbers and of their intervals' ends: the page has hundreds of rows."""

TEXTS = ("users", "kind", "told", "name")
"""Columns that are no numbers."""

Row = dict[str, str | float | None]


def frontier_rows(card: PolicyCard, sweep: Sweep) -> str:
    """Return a table in CSV of every group's alphas, static weights and operating points."""
    rows = [
        row
        for group, frontier in {EVERYONE: sweep.everyone, **sweep.cohorts}.items()
        for row in (*_arm_rows(card, group, frontier), *_alpha_rows(card, sweep, group, frontier))
    ]
    rows += _further_rows(card, sweep)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def number_columns(table: str) -> dict[str, str]:
    """Return which columns of such a table Vega-Lite reads as numbers: what is empty is then null."""
    header = table.partition("\n")[0]
    return {name: "number" for name in header.split(",") if name not in TEXTS}


def _arm_rows(card: PolicyCard, group: str, frontier: Frontier) -> Iterator[Row]:
    weight_K2 = card.arms.weights()[:, list(card.arms.columns)]
    for point in frontier.arms:
        kind = PRODUCTION if point.arm == card.arms.production_arm else ARM
        first, second = (
            f"{name} {weight:.4g}" for name, weight in zip(card.rewards, weight_K2[point.arm], strict=True)
        )
        yield _row(group, kind, f"{first}, {second}", point, dominated=point.dominated)


def _alpha_rows(card: PolicyCard, sweep: Sweep, group: str, frontier: Frontier) -> Iterator[Row]:
    names = _names(sweep, group)
    chosen = None if card.chosen is None or _mixed(card.chosen, group) else card.chosen.of(group)
    for point in frontier.alphas:
        yield _row(
            group,
            POLICY,
            f"alpha {point.alpha:.3g}",
            point,
            alpha=point.alpha,
            dominated=point.dominated,
            name=", ".join(names[point.alpha]),
            chosen=point.alpha == chosen,
        )


def _further_rows(card: PolicyCard, sweep: Sweep) -> Iterator[Row]:
    """Yield operating points that no single alpha of the sweep is."""
    swept = {point.alpha for point in sweep.everyone.alphas}
    for candidate in sweep.candidates:
        alphas = candidate.alphas
        mixed = _mixed(alphas, EVERYONE)
        if mixed or alphas.default not in swept:
            yield _row(
                EVERYONE,
                MIXED if mixed else POLICY,
                told_alphas(alphas),
                candidate,
                alpha=None if mixed else alphas.default,
                name=candidate.name,
                chosen=alphas == card.chosen,
            )


def _mixed(alphas: Alphas, group: str) -> bool:
    return group == EVERYONE and bool(alphas.cohorts)


def _names(sweep: Sweep, group: str) -> dict[float, list[str]]:
    """Return the operating points of a group by alpha; a cohort's are those that were chosen on it."""
    names = defaultdict(list)
    for candidate in sweep.candidates:
        if group == EVERYONE and not candidate.alphas.cohorts:
            names[candidate.alphas.default].append(candidate.name)
        elif group in candidate.alphas.cohorts:
            names[candidate.alphas.cohorts[group]].append(candidate.name.removesuffix(BY_COHORT))
    return names


def _row(
    group: str,
    kind: str,
    told: str,
    numbers: PolicyNumbers | Candidate,
    *,
    alpha: float | None = None,
    dominated: bool = False,
    name: str = "",
    chosen: bool = False,
) -> Row:
    row: Row = {"users": group, "kind": kind, "told": told, "alpha": alpha, "name": name}
    row |= {"dominated": int(dominated), "chosen": int(chosen)}
    for number, reward in enumerate((numbers.first, numbers.second)):
        for key in WITH_INTERVAL:
            interval = getattr(reward, key)
            row[f"{key}_{number}"] = _short(interval.value, DIGITS)
            row[f"{key}_{number}_low"] = _short(interval.low, DIGITS_OF_ENDS)
            row[f"{key}_{number}_high"] = _short(interval.high, DIGITS_OF_ENDS)
        row[f"weight_{number}"] = _short(numbers.weights[number], DIGITS)
    return row | {"hits": numbers.hits, "effective": _short(numbers.effective_requests, DIGITS)}


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
