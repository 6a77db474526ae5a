"""What the explorer says of an answer's bundle."""

from pathlib import Path

import pytest

from explorer.bundles import Bundles
from tests.conftest import ACTIONS, SERVED, Exported
from unipinrec.models.unified.queries import plan_queries


def test_each_query_embedding_is_told_by_outcome_offset_and_step(exported: Exported) -> None:
    facts = Bundles(exported.bundle.parent).of(exported.bundle.name)
    assert facts is not None
    # The model's offsets are 0 and 60 seconds.
    plan = plan_queries(60, (1.0, 0.0, 1.0), SERVED["retrieval_steps"], num_offsets=2)
    told = [facts.found_by(int(origin)) for origin in plan.origins(len(ACTIONS), num_offsets=2)]
    assert told == [
        f"{outcome}, {when}, step {step}"
        for step in (1, 2, 3)
        for outcome in ("click", "hide")
        for when in ("now", "in 1 min")
    ]
    (plain,) = plan_queries(1, (0.0, 0.0, 0.0), 1, 2).origins(len(ACTIONS), 2).tolist()
    assert facts.found_by(plain) == "any action, now, step 1"


def test_names_are_those_of_the_bundle(exported: Exported) -> None:
    facts = Bundles(exported.bundle.parent).of(exported.bundle.name)
    assert facts is not None
    assert facts.catalogue.title(1003) == "item 1003"
    assert facts.catalogue.action_names(3) == list(ACTIONS)
    assert facts.card is None


@pytest.mark.parametrize("bundle_id", ["", "..", "../bundles/x", "/etc", "no-such-bundle", "a\0b"])
def test_an_id_that_is_no_bundle_of_the_folder_is_unknown(exported: Exported, bundle_id: str) -> None:
    assert Bundles(exported.bundle.parent).of(bundle_id) is None


def test_a_bundle_that_cannot_be_read_is_unknown(exported: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "manifest.json").write_text((exported.bundle / "manifest.json").read_text())
    (folder / "catalogue.json").write_text("[]")
    assert Bundles(tmp_path).of("broken") is None
