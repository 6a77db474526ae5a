"""What makes a node drop what it keeps of users who are deleted from the store of histories."""

import logging
import threading
import time
from collections.abc import Callable, Collection

from ensemble.settings import ServingSettings
from ensemble.stores.history_store import HistoryStore, StoreError
from ensemble.stores.stores import open_histories

LOOK_S = 0.25
"""Seconds between two looks at the store's notices."""

log = logging.getLogger(__name__)


class Forgetting:
    """Follows the notices of a store.

    A request that had read a history before the deletion may bring it back: what is kept of a user is dropped
    at every look, for some time after the notice was seen.
    """

    def __init__(
        self, settings: ServingSettings, forget: Callable[[Collection[bytes]], None], again_s: float
    ) -> None:
        """`forget` is called, in the thread of `watch`, with owners as `ensemble.owners` makes them, until
        `again_s` after their notice. A store that is made later is followed from then on."""
        self._settings, self._forget, self._again_s = settings, forget, again_s
        self._store: HistoryStore | None = None
        self._latest = 0
        self._until: dict[bytes, float] = {}
        self._failure = ""
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None

    def look(self) -> None:
        """Call `forget` if a user was deleted lately. Raises `StoreError` if the store cannot be read."""
        now = time.monotonic()
        self._until = {owner: until for owner, until in self._until.items() if until > now}
        self._store = self._store or open_histories(self._settings)
        for notice in self._store.deleted_after(self._latest) if self._store else ():
            self._latest = notice.number
            self._until |= dict.fromkeys(notice.owners, now + self._again_s)
        if self._until:
            self._forget(self._until.keys())

    def watch(self) -> None:
        """Look again and again, in a thread, until `close`."""
        self._watcher = threading.Thread(target=self._watch, name="forgetting", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End the thread of `watch`, and close the store."""
        self._stopped.set()
        if self._watcher is not None:
            self._watcher.join()
        if self._store is not None:
            self._store.close()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            try:
                self.look()
                self._failure = ""
            except StoreError as error:
                if str(error) != self._failure:
                    log.warning("deleted users are not forgotten: %s", error)
                self._failure = str(error)
