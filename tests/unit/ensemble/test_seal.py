"""Where nodes have the key from that they seal with, and how much the size of what they seal tells."""

import numpy as np
import pytest
from pydantic import SecretStr, ValidationError

from ensemble.nodes.contract import InvalidInputError
from ensemble.nodes.seal import Seal
from ensemble.nodes.sealed_history import SealedHistory, rows_from_bytes, rows_to_bytes
from ensemble.settings import ServingSettings
from tests.support.node_chain import made_up


def test_a_node_without_a_key_says_which_variable_it_lacks() -> None:
    message = (
        "^UNIPINREC_SEAL_KEY is not set; allowed: 64 hexadecimal digits, the same for all nodes of a server"
    )
    with pytest.raises(ValueError, match=message):
        Seal(ServingSettings(seal_key=None), "bundle")


@pytest.mark.parametrize("key", ["5E" * 32, "5e" * 31, "5e" * 33, "g" * 64])
def test_other_keys_are_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValidationError, match="allowed: 64 hexadecimal digits in small letters") as error:
        ServingSettings(seal_key=SecretStr(key))
    assert key not in str(error.value)


def test_every_start_has_a_key_of_its_own_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIPINREC_SEAL_KEY")
    first, second = ServingSettings().sealing(), ServingSettings().sealing()
    assert first.seal_key != second.seal_key
    assert first.sealing() == first
    sealed = Seal(first, "bundle").close("KV_HANDLE", Seal(first, "bundle").tokens(1), [b"handle"])
    assert Seal(first, "bundle").open(sealed, "KV_HANDLE")[0].content == {"KV_HANDLE": b"handle"}
    with pytest.raises(InvalidInputError, match="was not sealed by this server"):
        Seal(second, "bundle").open(sealed, "KV_HANDLE")


def test_what_one_tensor_holds_cannot_stand_for_another() -> None:
    seal = Seal(ServingSettings().sealing(), "bundle")
    sealed = seal.close("SEALED_HISTORY", seal.tokens(1), [b"history"])["SEALED_HISTORY"]
    with pytest.raises(InvalidInputError, match="SEALED_LIFELONG was not sealed"):
        seal.open({"SEALED_LIFELONG": sealed}, "SEALED_LIFELONG")


@pytest.mark.parametrize("length", [0, 1, 100, 300, 17_000])
def test_histories_come_back_and_their_sizes_are_powers_of_two(length: int) -> None:
    sealed = SealedHistory(history=made_up(length, length), request_time=5, surface=1, owner=bytes(16))
    content = sealed.to_bytes()
    assert len(content) >= 4096
    assert len(content).bit_count() == 1
    found = SealedHistory.from_bytes(content)
    assert (found.request_time, found.surface, found.owner) == (5, 1, bytes(16))
    for name in ("item_row_N", "actions_N", "timestamp_N", "surface_N"):
        assert np.array_equal(getattr(found.history, name), getattr(sealed.history, name))
    rows = rows_to_bytes(np.arange(length))
    assert len(rows).bit_count() == 1
    assert rows_from_bytes(rows).tolist() == list(range(length))
