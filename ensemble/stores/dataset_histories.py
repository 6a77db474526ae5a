"""The histories of a prepared dataset as stores take them."""

from collections.abc import Iterator

import numpy as np

from ensemble.stores.history_store import EVENT, Events
from unipinrec.data.interactions import InteractionDataset


def dataset_histories(dataset: InteractionDataset, skip_last: int = 0) -> Iterator[tuple[bytes, Events]]:
    """Yield each user's id and events, but for the latest `skip_last`, so that these can be asked for."""
    for user, user_id in enumerate(dataset.user_ids_U):
        history = dataset.history(user)
        kept = history[: max(len(history) - skip_last, 0)]
        events = np.empty(len(kept), EVENT)
        events["item_id"] = dataset.item_ids_V[kept.item_row_N]
        events["actions"] = kept.actions_N
        events["timestamp"] = kept.timestamp_N
        events["surface"] = kept.surface_N
        yield str(user_id).encode(), events
