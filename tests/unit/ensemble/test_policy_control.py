"""Commands to the policy node: what they answer, who may give them, and what they refuse."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ensemble.policy.alphas import AlphaBook, CommandError
from ensemble.policy.control import PolicyControl
from tests.support.policy_cards import policy_card

KEY = "right"
STATUS = {
    "policy": "a" * 64,
    "synthetic": True,
    "rewards": ["click", "save"],
    "arms": 49,
    "revision": 0,
    "time": 0,
    "note": "",
    "default": 0.5,
    "cohorts": {"core": 0.25, "casual": 0.5, "rest": 0.5},
}


@pytest.fixture
def book(tmp_path: Path) -> Iterator[AlphaBook]:
    book = AlphaBook(tmp_path / "alphas.json", policy_card())
    yield book
    book.close()


@pytest.fixture
def control(book: AlphaBook) -> PolicyControl:
    return PolicyControl(policy_card(), book, SecretStr(KEY))


def encoded(**command: Any) -> bytes:
    return json.dumps(command).encode()


def test_the_status_needs_no_key_and_is_json(control: PolicyControl) -> None:
    status = control.answer(b"{}", None)
    assert status == json.loads(json.dumps(status)) == STATUS


def test_the_status_of_a_card_without_alphas_has_none(tmp_path: Path) -> None:
    card = policy_card().model_copy(update={"chosen": None})
    book = AlphaBook(tmp_path / "alphas.json", card)
    nothing = {"default": None, "cohorts": {"core": None, "casual": None, "rest": None}}
    assert PolicyControl(card, book, None).answer(b"{}", None) == STATUS | nothing
    book.close()


def test_alphas_are_set_and_rolled_back_with_the_key(control: PolicyControl, book: AlphaBook) -> None:
    asked = encoded(set={"default": 0.3, "cohorts": {"rest": 1}}, note="calmer")
    status = control.answer(asked, KEY)
    assert (status["revision"], status["default"], status["note"]) == (1, 0.3, "calmer")
    assert status["cohorts"] == {"core": 0.3, "casual": 0.3, "rest": 1.0}
    assert status["time"] == book.current().time > 1_700_000_000
    back = control.answer(encoded(rollback=True), KEY)
    assert (back["revision"], back["cohorts"]) == (2, STATUS["cohorts"])
    assert control.answer(b"{}", None) == back


@pytest.mark.parametrize("command", [encoded(set={"default": 0.3}), encoded(rollback=True)])
@pytest.mark.parametrize("given", [None, "", "Right", "right ", "rïght"])
def test_changes_are_refused_without_the_right_key(
    control: PolicyControl, book: AlphaBook, command: bytes, given: str | None
) -> None:
    book.set(book.current().alphas)
    with pytest.raises(CommandError, match=r"unipinrec-admin-key") as refused:
        control.answer(command, given)
    assert "ight" not in str(refused.value)
    assert book.current().number == 1


@pytest.mark.parametrize("own", [None, SecretStr("")])
@pytest.mark.parametrize("given", [None, "", KEY])
def test_a_server_without_a_key_lets_nobody_change(
    book: AlphaBook, own: SecretStr | None, given: str | None
) -> None:
    control = PolicyControl(policy_card(), book, own)
    with pytest.raises(CommandError, match=r"^UNIPINREC_ADMIN_KEY of the server is not set; "):
        control.answer(encoded(set={"default": 0.3}), given)
    assert control.answer(b"{}", None) == STATUS


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (encoded(set={"default": 1.5}), r"set.default is 1.5; allowed: .* from 0 to 1"),
        (encoded(set={"default": -0.01}), r"set.default is -0.01; allowed: "),
        (b'{"set": {"default": NaN}}', r"set.default is nan; allowed: "),
        (encoded(set={"default": True}), r"set.default is True; allowed: "),
        (encoded(set={"default": "0.3"}), r"set.default is '0.3'; allowed: "),
        (encoded(set={"cohorts": {}}), r"set.default is \{'cohorts': \{\}\}; allowed: "),
        (encoded(set={"default": 0.3, "cohorts": {"core": 2}}), r"set.cohorts.core is 2.*; allowed: "),
        (
            encoded(set={"default": 0.3, "cohorts": {"vip": 0.2}}),
            r"cohort is vip; allowed: core, casual, rest$",
        ),
        (encoded(set=0.3), r"set is 0.3; allowed: "),
        (encoded(rollback="yes"), r"rollback is 'yes'; allowed: true or false"),
        (encoded(rollback=True, set={"default": 0.3}), r"COMMAND has both set and rollback; allowed: "),
        (encoded(reset=True), r"reset is True; allowed: a JSON object with set, rollback, note"),
        (b"", r"COMMAND is b''; allowed: a JSON object"),
        (b"\xff", r"COMMAND is .*; allowed: a JSON object"),
        (b"[]", r"COMMAND is \[\]; allowed: a JSON object"),
        (b"[" * 60_000, r"COMMAND is .*; allowed: a JSON object"),
        (b" " * (1 << 17), r"COMMAND has 131072 bytes; allowed: up to 65536"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(
    control: PolicyControl, command: bytes, message: str
) -> None:
    with pytest.raises(CommandError, match=rf"^{message}") as refused:
        control.answer(command, KEY)
    assert len(str(refused.value)) < 300
    assert control.answer(b"{}", None) == STATUS
