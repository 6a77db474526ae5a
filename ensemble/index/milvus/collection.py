"""A bundle's items in a Milvus collection.

Shapes: V items, Q query embeddings, E item width, X left-out items, K items wanted, G items of one write.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.index.unavailable import IndexUnavailableError

log = logging.getLogger(__name__)

ROW, VECTOR = "item_row", "vector"
"""Fields of a collection: an item's row in the bundle, and its vector."""

ROWS_AT_ONCE = 2_000
"""Items of one write: 64 floats each are half a megabyte, and Milvus takes 64."""

METRIC = "IP"

Answer = TypeVar("Answer")


class Collection:
    """The items of one bundle, by its id. Every call waits for `timeout_s` at most."""

    def __init__(self, url: str, token: str | None, bundle_id: str, timeout_s: float) -> None:
        """Raises `IndexUnavailableError` if nothing that speaks Milvus answers at `url`."""
        # It logs each failure with a traceback, and the failure is told by what this class raises.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.name = f"unipinrec_{bundle_id}"
        self._url, self._token, self._timeout_s = url, token or "", timeout_s
        self._address = urlsplit(url).netloc
        self._away_until = -math.inf
        self._client: MilvusClient | None = None
        self._loaded = False
        self._asked(lambda client: client.list_collections(timeout=timeout_s))

    def count(self) -> int | None:
        """Return how many items it holds, None where there is no such collection."""
        if not self._asked(lambda client: client.has_collection(self.name, timeout=self._timeout_s)):
            return None
        wanted = {"output_fields": ["count(*)"], "timeout": self._timeout_s}
        rows = self._asked(lambda client: client.query(self.name, filter="", **wanted))
        return int(rows[0]["count(*)"])

    def create(self, width: int, index_type: str) -> None:
        """Make the collection for vectors of a width, with one of Milvus' index types."""
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ROW, DataType.INT64, is_primary=True)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=width)
        index = MilvusClient.prepare_index_params()
        index.add_index(VECTOR, index_type=index_type, metric_type=METRIC)
        made = {"schema": schema, "index_params": index, "timeout": self._timeout_s}
        # A search sees every write that was acknowledged before it.
        self._asked(lambda client: client.create_collection(self.name, consistency_level="Strong", **made))

    def drop(self) -> None:
        """Remove the collection, if there is one."""
        self._asked(lambda client: client.drop_collection(self.name, timeout=self._timeout_s))

    def load(self) -> None:
        """Let Milvus bring the collection into memory, also whenever it has been away, and wait until it is
        there."""
        self._loaded = True
        self._asked(self._bring)

    def fill(self, vector_VE: Floats) -> Iterator[int]:
        """Write all items of a bundle, and tell after each write how many are written."""
        for first in range(0, len(vector_VE), ROWS_AT_ONCE):
            written = vector_VE[first : first + ROWS_AT_ONCE]
            self.put(first, written)
            yield first + len(written)

    def put(self, first_row: int, vector_GE: Floats) -> None:
        """Add items, or replace their vectors; they have rows one after another."""
        rows = [{ROW: first_row + place, VECTOR: vector_E} for place, vector_E in enumerate(vector_GE)]
        self._asked(lambda client: client.upsert(self.name, rows, timeout=self._timeout_s))

    def remove(self, item_row_G: Int64s) -> None:
        """Remove items."""
        self._asked(lambda client: client.delete(self.name, ids=item_row_G.tolist(), timeout=self._timeout_s))

    def search(self, query_QE: Floats, count: int, left_out_X: Int64s) -> Int64s:
        """Return item rows [Q, K] of largest inner product, best first, none of them left out; `PADDING`
        stands where fewer are found."""
        answers = self._asked(
            lambda client: client.search(
                self.name,
                data=list(query_QE),
                limit=count,
                # Rows are integers, so that nothing of a caller's gets into the expression.
                filter=f"{ROW} not in {left_out_X.tolist()}" if len(left_out_X) else "",
                output_fields=[ROW],
                timeout=self._timeout_s,
            )
        )
        item_row_QK = np.full((len(query_QE), count), PADDING, np.int64)
        for row_K, answer in zip(item_row_QK, answers, strict=True):
            row_K[: len(answer)] = [hit[ROW] for hit in answer]
        return item_row_QK

    def _asked(self, call: Callable[[MilvusClient], Answer]) -> Answer:
        # Requests that have queued up do not wait one after another for a server that is away.
        if time.monotonic() < self._away_until:
            raise IndexUnavailableError(f"Milvus at {self._address} has not answered a moment ago")
        try:
            if self._client is None:
                self._client = self._connected()
            return call(self._client)
        except (MilvusException, grpc.RpcError, OSError) as error:
            # Its connection may not come back by itself.
            client, self._client = self._client, None
            if client is not None:
                client.close()
            told = str(getattr(error, "message", error)).splitlines()[0]
            if isinstance(error, grpc.RpcError) or "Fail connecting" in told:
                self._away_until = time.monotonic() + self._timeout_s
                told = f"no answer within {self._timeout_s:g} s"
            log.warning("Milvus at %s: %s", self._address, told)
            raise IndexUnavailableError(f"Milvus at {self._address}: {told}") from error

    def _connected(self) -> MilvusClient:
        client = MilvusClient(uri=self._url, token=self._token, timeout=self._timeout_s, dedicated=True)
        if self._loaded:
            self._bring(client)
        return client

    def _bring(self, client: MilvusClient) -> None:
        client.load_collection(self.name, timeout=self._timeout_s)
