"""The histories of a prepared dataset as stores take them."""

from collections.abc import Iterator

import numpy as np

from ensemble.arrays import Int64s
from ensemble.stores.history_store import EVENT, Events, merge
from unipinrec.data.history import History
from unipinrec.data.impressions_log import ImpressionLog
from unipinrec.data.interactions import InteractionDataset


def dataset_histories(
    dataset: InteractionDataset, skip_last: int = 0, impressions: int = 0
) -> Iterator[tuple[bytes, Events]]:
    """Yield each user's id and events, but for the latest `skip_last`, so that these can be asked for.

    At most `impressions` of what was shown and not acted on stand among them: the latest before the slate of
    the first event that is skipped. Where histories hold impressions, all of them are events.
    """
    log = ImpressionLog.of(dataset)
    added = 0 if dataset.info.history_impressions else impressions
    for user, user_id in enumerate(dataset.user_ids_U):
        history = dataset.history(user)
        kept = history[: max(len(history) - skip_last, 0)]
        shown = _shown(dataset, log, user, len(kept))
        latest = shown[max(len(shown) - added, 0) :]
        parts = (events_of(part, dataset.item_ids_V) for part in (kept, latest))
        yield str(user_id).encode(), merge(*parts)


def events_of(history: History, item_id_V: Int64s) -> Events:
    """Return the events of a history in item rows, given the item of each row."""
    events = np.empty(len(history), EVENT)
    events["item_id"] = item_id_V[history.item_row_N]
    events["actions"] = history.actions_N
    events["timestamp"] = history.timestamp_N
    events["surface"] = history.surface_N
    return events


def _shown(dataset: InteractionDataset, log: ImpressionLog, user: int, kept: int) -> History:
    """What a user was shown in vain before the slate of the event that follows the first `kept`."""
    first, end = dataset.feedviews.offset_U1[user : user + 2]
    whole = kept == len(dataset.history(user))
    if whole or first == end:
        return log.history(user)
    began = int(np.searchsorted(dataset.feedviews.start_F[first:end], kept, side="right"))
    return log.before(int(first) + max(began - 1, 0))
