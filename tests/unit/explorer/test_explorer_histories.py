"""The histories that the explorer shows and sends."""

from explorer.histories import Histories
from tests.conftest import Exported
from tests.served.requests import events_of


def test_a_users_events_are_those_of_the_dataset(exported: Exported) -> None:
    histories = Histories(exported.dataset)
    assert len(histories.listed) == len(exported.dataset.user_ids_U)
    for user in (0, 5):
        user_id = str(exported.dataset.user_ids_U[user])
        assert histories.listed[user] == user_id
        assert histories.of(user_id) == tuple(events_of(exported, user))
    assert histories.of("nobody") is None
    assert histories.catalogue.title(1000) == "item 1000"
