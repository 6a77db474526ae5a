"""`frontier.html`: everything that it shows is in it, and equals the card."""

import csv
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from experiments.frontier_page import frontier_chart, write_page
from experiments.frontier_rows import EVERYONE, MIXED, POLICY, PRODUCTION, frontier_rows
from tests.support.policy_cards import policy_card
from tests.support.swept import swept_card
from unipinrec.models.policy.card import PolicyCard, Sweep
from unipinrec.models.policy.sweep import ALPHAS, KNEE, LEAN_FIRST

MOST_BYTES = 1_000_000


def swept(card: PolicyCard) -> Sweep:
    assert card.evidence is not None
    return card.evidence.sweep


def rows(card: PolicyCard) -> list[dict[str, str]]:
    return list(csv.DictReader(frontier_rows(card, swept(card)).splitlines()))


def marks(card: PolicyCard, **params: str) -> list[str]:
    """What the drawn chart says of every point, with some of its choices made."""
    spec: dict[str, Any] = frontier_chart(card).to_dict()
    for param in spec["params"]:
        param["value"] = params.get(param["name"], param.get("value"))
    drawn = vl_convert.vegalite_to_svg(json.dumps(spec))
    return re.findall(r'aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="point"', drawn)


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.styles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.styles.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "frontier.html"
    write_page(swept_card(), path)
    return path.read_text()


def test_the_page_is_one_file_that_asks_for_nothing(page: str) -> None:
    assert len(page.encode()) < MOST_BYTES
    tags = Tags()
    tags.feed(page)
    assert {tag for tag, _ in tags.found} == {
        "html",
        "head",
        "title",
        "style",
        "meta",
        "script",
        "body",
        "div",
    }
    assert {name for _, pairs in tags.found for name, _ in pairs} <= {"charset", "type", "class", "id"}
    assert not re.search(r"@import|url\(", "".join(tags.styles))


def test_the_page_says_what_it_is_and_that_it_is_synthetic(page: str) -> None:
    card = swept_card()
    assert f"<title>Policy {'a' * 12}: SYNTHETIC, from a simulated log</title>" in page
    real = card.model_copy(update={"synthetic": False})
    assert frontier_chart(real).to_dict()["title"]["text"] == f"Policy {'a' * 12}"
    told = " ".join(frontier_chart(card).to_dict()["title"]["subtitle"])
    assert f"Chosen: {card.why}" in told
    assert f"{swept(card).everyone.requests:,} explored requests" in told


def test_the_page_holds_the_numbers_of_every_alpha_and_static_arm_of_every_group(page: str) -> None:
    card = swept_card()
    spec = json.loads(re.findall(r"const spec = (\{.*\});", page)[0])
    (table,) = (data for data in spec["datasets"].values() if isinstance(data, str))
    assert table == frontier_rows(card, swept(card))
    shown = rows(card)
    groups = {EVERYONE: swept(card).everyone, **swept(card).cohorts}
    assert {row["users"] for row in shown} == set(groups)
    for name, group in groups.items():
        ours = [row for row in shown if row["users"] == name and row["kind"] == POLICY]
        assert [float(row["alpha"]) for row in ours] == ALPHAS.tolist()
        for row, point in zip(ours, group.alphas, strict=True):
            for number, reward in enumerate((point.first, point.second)):
                for key in ("estimate", "hit", "lift"):
                    interval = getattr(reward, key)
                    assert float(row[f"{key}_{number}"]) == pytest.approx(interval.value, rel=1e-3)
                    assert float(row[f"{key}_{number}_low"]) == pytest.approx(interval.low, rel=1e-2)
                    assert float(row[f"{key}_{number}_high"]) == pytest.approx(interval.high, rel=1e-2)
            assert (int(row["hits"]), row["dominated"]) == (point.hits, str(int(point.dominated)))
        assert Counter(row["kind"] for row in shown if row["users"] == name)[PRODUCTION] == 1


def test_operating_points_stand_at_their_alphas_and_the_chosen_one_alone_is_marked() -> None:
    card = swept_card()
    assert card.chosen is not None
    everyone = [row for row in rows(card) if row["users"] == EVERYONE]
    (chosen,) = (row for row in everyone if row["chosen"] == "1")
    assert KNEE in chosen["name"].split(", ")
    assert float(chosen["alpha"]) == card.chosen.default
    mixed = [row["name"] for row in everyone if row["kind"] == MIXED]
    assert mixed == ["lean-first by cohort", "knee by cohort", "lean-second by cohort"]


def test_where_cohorts_have_alphas_each_shows_its_own() -> None:
    card = swept_card(LEAN_FIRST, by_cohort=True)
    assert card.chosen is not None
    chosen = [row for row in rows(card) if row["chosen"] == "1"]
    assert [row["name"] for row in chosen if row["users"] == EVERYONE] == ["lean-first by cohort"]
    own = {row["users"]: float(row["alpha"]) for row in chosen if row["users"] != EVERYONE}
    assert own == card.chosen.cohorts


def test_an_alpha_beside_the_sweep_is_shown_too() -> None:
    shown = rows(swept_card(alpha=0.3))
    (asked,) = (row for row in shown if row["chosen"] == "1" and row["users"] == EVERYONE)
    assert (asked["name"], asked["alpha"], asked["kind"]) == ("alpha", "0.3", POLICY)


def test_a_card_that_falls_back_has_no_chosen_point() -> None:
    fallen = swept_card().model_copy(update={"chosen": None})
    assert [row for row in rows(fallen) if row["chosen"] == "1"] == []


def test_every_policy_is_drawn_by_default_and_what_has_no_such_number_is_left_out() -> None:
    """A point is drawn with all its numbers as a hint; operating points have a ring besides."""
    of_everyone = [row for row in rows(swept_card()) if row["users"] == EVERYONE]
    hints = [mark for mark in marks(swept_card()) if "Reward@HIT" in mark]
    assert len(hints) == len(of_everyone) == 25 + 50 + 3
    by_alpha = [mark for mark in marks(swept_card(), across="alpha") if "Reward@HIT" in mark]
    assert len(by_alpha) == 25


def test_choosing_axes_and_users_changes_what_is_drawn() -> None:
    card = swept_card()
    point = swept(card).cohorts["rest"].alphas[12]
    (mark,) = (
        mark
        for mark in marks(card, across="hits", up="hit_1", shown="rest")
        if "title: alpha 0.5;" in mark and "Reward@HIT" in mark
    )
    found = re.match(r"x: (\d+); y: ([\d.]+);", mark)
    assert found is not None
    assert int(found[1]) == point.hits
    assert float(found[2]) == pytest.approx(point.second.hit.value, rel=1e-3)


def test_a_card_without_evidence_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="evidence is null; allowed: a card that `unipinrec policy sweep` made"
    ):
        write_page(policy_card(), tmp_path / "page.html")
