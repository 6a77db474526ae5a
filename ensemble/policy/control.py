"""Commands to the policy node: what it decides by, and the restricted ones that change its alphas."""

import hmac
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError

from ensemble.policy.alphas import AlphaBook, CommandError, Revision
from unipinrec.config import Config
from unipinrec.models.policy.card import Alphas, PolicyCard

LARGEST_COMMAND = 1 << 16
"""Bytes."""
ALLOWED = {
    "set": "default and cohorts by name, each a number from 0 to 1",
    "rollback": "true or false",
    "note": "text",
}
"""What the fields of a command may be."""


class Command(Config):
    """What a caller asks for; at most one of `set` and `rollback`, and with neither the status alone."""

    set_: Annotated[Alphas | None, Field(alias="set")] = None
    """All alphas from here on. Cohorts that it leaves out get its default."""
    rollback: bool = False
    note: str = ""
    """Why, for whoever reads the revisions."""


class PolicyControl:
    """Answers commands about one policy."""

    def __init__(self, card: PolicyCard, book: AlphaBook, admin_key: SecretStr | None) -> None:
        """Without an `admin_key`, or with an empty one, commands that change something are refused."""
        self._card = card
        self._book = book
        self._admin_key = admin_key.get_secret_value().encode() if admin_key else b""

    def answer(self, command: bytes, admin_key: str | None) -> dict[str, Any]:
        """Return the policy's status, for JSON, after doing what `command` says: a JSON object, `{}`,
        `{"set": {"default": 0.3, "cohorts": {"core": 0.2}}, "note": "…"}` or `{"rollback": true}`.

        Raises `CommandError`, which names what is wrong, its value and what is allowed; no message has a key.
        """
        asked = _parse(command)
        if asked.set_ is None and not asked.rollback:
            return self._status(self._book.current())
        self._check_key(admin_key)
        if asked.set_ is None:
            return self._status(self._book.rollback(asked.note))
        return self._status(self._book.set(asked.set_, asked.note))

    def _check_key(self, given: str | None) -> None:
        if not self._admin_key:
            raise CommandError(
                "UNIPINREC_ADMIN_KEY of the server is not set; without it nobody may change alphas by a call"
            )
        if given is None:
            raise CommandError("no unipinrec-admin-key came with the command; allowed: that of the server")
        if not hmac.compare_digest(given.encode(), self._admin_key):
            raise CommandError("unipinrec-admin-key is another than the server's")

    def _status(self, revision: Revision) -> dict[str, Any]:
        card, alphas = self._card, revision.alphas
        return {
            "policy": card.fingerprint,
            "synthetic": card.synthetic,
            "rewards": list(card.rewards),
            "arms": len(card.arms),
            "revision": revision.number,
            "time": revision.time,
            "note": revision.note,
            "default": alphas and alphas.default,
            "cohorts": {cohort: alphas and alphas.of(cohort) for cohort in card.cohorts},
        }


def _parse(command: bytes) -> Command:
    if len(command) > LARGEST_COMMAND:
        raise CommandError(f"COMMAND has {len(command)} bytes; allowed: up to {LARGEST_COMMAND}")
    try:
        # Strictly, since true would count as 1 and text as the number it looks like.
        asked = Command.model_validate_json(command, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        where = ".".join(map(str, first["loc"])) or "COMMAND"
        allowed = ALLOWED.get(field, f"a JSON object with {', '.join(ALLOWED)} or none of them")
        raise CommandError(f"{where} is {first['input']!r:.100}; allowed: {allowed}") from None
    if asked.set_ is not None and asked.rollback:
        raise CommandError("COMMAND has both set and rollback; allowed: one of them")
    return asked
