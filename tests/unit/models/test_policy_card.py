"""The policy card: a documented format that is read back as it was written, and refuses contradictions."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from tests.support.policy_cards import policy_card
from tests.support.swept import swept_card
from unipinrec.models.policy.card import Alphas, PolicyCard
from unipinrec.models.policy.sweep import KNEE

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "docs" / "policy-card.schema.json"
COMMITTED = ROOT / "benchmarks" / "results" / "policy" / "sweep" / "policy-card.json"


def test_a_card_is_read_as_it_was_written() -> None:
    for card in (swept_card(), policy_card()):
        assert PolicyCard.model_validate_json(card.model_dump_json()) == card


def test_the_committed_schema_is_that_of_the_card_and_allows_what_a_sweep_writes() -> None:
    schema = json.loads(SCHEMA.read_text())
    assert schema == PolicyCard.model_json_schema(), (
        "write json.dumps(PolicyCard.model_json_schema(), indent=2) to docs/policy-card.schema.json"
    )
    written = json.loads(swept_card(KNEE, by_cohort=True).model_dump_json())
    jsonschema.validate(written, schema)
    written["evidence"]["sweep"]["everyone"]["alphas"][3]["first"]["lift"].pop("low")
    with pytest.raises(jsonschema.ValidationError, match="'low' is a required property"):
        jsonschema.validate(written, schema)


def test_the_committed_card_is_one_and_synthetic() -> None:
    card = PolicyCard.model_validate_json(COMMITTED.read_text())
    assert card.synthetic
    assert card.evidence is not None
    assert {candidate.name for candidate in card.evidence.sweep.candidates} >= {"lean-first", "knee"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"chosen": {"default": 0.5, "cohorts": {"core2": 0.1}}},
            "cohort is core2; allowed: core, casual, rest",
        ),
        ({"chosen": {"default": 1.5}}, "less than or equal to 1"),
        ({"fingerprint": "a" * 65}, "pattern"),
        ({"format_version": 2}, "Input should be 1"),
        (
            {"guardrails": [{"name": "hits", "limit": 100, "value": 99, "passed": False}]},
            "guardrail hits failed; allowed: null as chosen",
        ),
        (
            {"guardrails": [{"name": "hits", "limit": 100, "value": 99, "passed": True}]},
            "hits is 99.0, limit 100.0, passed True",
        ),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicyCard.model_validate(policy_card().model_dump() | change)


def test_a_failed_guardrail_leaves_the_card_without_an_operating_point() -> None:
    failed = {"name": "hits", "limit": 100, "value": 99, "passed": False}
    card = PolicyCard.model_validate(policy_card().model_dump() | {"guardrails": [failed], "chosen": None})
    assert card.chosen is None
    assert card.fallback == "production"


def test_a_cohort_without_an_alpha_of_its_own_has_the_default() -> None:
    alphas = Alphas(default=0.5, cohorts={"core": 0.25})
    assert (alphas.of("core"), alphas.of("rest")) == (0.25, 0.5)
