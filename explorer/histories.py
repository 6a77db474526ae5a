"""Users of a prepared dataset and what they did."""

from pathlib import Path
from typing import Self

from unipinrec_client import Event
from unipinrec_client.catalogue import Catalogue

from unipinrec.data.interactions import InteractionDataset

MOST_LISTED = 1_000
"""Users to pick from; any other one of the dataset can be pasted."""

MOST_SENT = 4_096
"""Latest events that go with a request: half of what a server takes by default."""


class Histories:
    """The histories of a dataset, by external user id."""

    def __init__(self, dataset: InteractionDataset) -> None:
        self._dataset = dataset
        self._number = {str(user_id): number for number, user_id in enumerate(dataset.user_ids_U)}
        self.listed = list(self._number)[:MOST_LISTED]
        titles = zip(dataset.item_ids_V.tolist(), dataset.titles_V, strict=True)
        self.catalogue = Catalogue(
            actions=dataset.info.actions, titles={str(item): str(title) for item, title in titles}
        )
        """Names of the dataset's actions and items."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a prepared dataset. Raises `PreparedDatasetError` if the folder is none."""
        return cls(InteractionDataset.load(folder))

    def of(self, user_id: str) -> tuple[Event, ...] | None:
        """Return a user's latest events, oldest first; None for a user whom the dataset does not have."""
        number = self._number.get(user_id)
        if number is None:
            return None
        history = self._dataset.history(number)[-MOST_SENT:]
        columns = (
            self._dataset.item_ids_V[history.item_row_N],
            history.actions_N,
            history.timestamp_N,
            history.surface_N,
        )
        return tuple(
            Event(item_id=item, actions=actions, timestamp=timestamp, surface=surface)
            for item, actions, timestamp, surface in zip(
                *(column.tolist() for column in columns), strict=True
            )
        )
