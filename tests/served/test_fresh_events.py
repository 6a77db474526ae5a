"""Events that another process appends count at the user's next request, and cost no bundle and no prefix."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unipinrec_client import Event, GrpcClient, RecommendRequest, RecommendResponse

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.settings import ROOT
from ensemble.stores.history_store import EVENT
from tests.conftest import Exported, serving
from tests.served.requests import NOW, events_of, stored
from tests.support.answers import Answer, Likeness, offline_answers
from unipinrec.data.history import History
from unipinrec.models.unified.offline import OfflineRequest

NUM_RESULTS = 20
APPENDED = 5
APPEND = """
import sys
from pathlib import Path
import numpy as np
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore

with LmdbHistoryStore(Path(sys.argv[1]), writable=True) as store:
    store.append(sys.argv[2].encode(), np.array([eval(event) for event in sys.argv[3:]], EVENT))
"""


@pytest.fixture(scope="module")
def own_store(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The exported bundle beside a store that may be written to."""
    histories = tmp_path_factory.mktemp("fresh") / "histories"
    shutil.copytree(exported.histories, histories)
    return replace(exported, histories=histories)


@pytest.fixture(scope="module")
def fresh_server(own_store: Exported, profile: str | None) -> Iterator[EmbeddedServer]:
    with serving(own_store, own_store.histories.parent / "server.log", profile=profile) as server:
        yield server


def append(histories: Path, user_id: str, events: list[tuple[int, ...]]) -> None:
    command = [sys.executable, "-c", APPEND, str(histories), user_id, *map(str, events)]
    subprocess.run(command, check=True, cwd=ROOT)


def sent_as(event: tuple[int, ...]) -> Event:
    return Event(**dict(zip(EVENT.names or (), event, strict=True)))


def user_of(exported: Exported, length: int) -> int:
    """A user whose window can hold more events than are appended, so that its start stays."""
    return int(np.argmax(np.diff(exported.dataset.offset_U1) == length))


def by_id_alone(exported: Exported, user: int) -> RecommendRequest:
    return replace(stored(exported, user, NUM_RESULTS), surface=0)


def answer_of(exported: Exported, history: History) -> Answer:
    """What offline PyTorch recommends after this history."""
    request = OfflineRequest(history=history, request_time=NOW, surface=0)
    return offline_answers(exported, [request], NUM_RESULTS)[0]


def test_appended_events_continue_the_prefix_of_the_same_bundle(
    fresh_server: EmbeddedServer, own_store: Exported, promised: Likeness
) -> None:
    dataset = own_store.dataset
    user = user_of(own_store, length=79)
    sent, history = events_of(own_store, user), dataset.history(user)
    rows = np.arange(APPENDED) * 7
    appended = [
        (int(dataset.item_ids_V[row]), 1 + place, sent[-1].timestamp + 60 * place, place % 2)
        for place, row in enumerate(rows)
    ]
    extended = History(
        item_row_N=np.concatenate([history.item_row_N, rows]),
        actions_N=np.concatenate([history.actions_N, [event[1] for event in appended]]),
        timestamp_N=np.concatenate([history.timestamp_N, [event[2] for event in appended]]),
        surface_N=np.concatenate([history.surface_N, [event[3] for event in appended]]),
    )
    request = by_id_alone(own_store, user)
    with GrpcClient(fresh_server.grpc_url) as client:
        before = client.recommend(request)
        append(own_store.histories, str(request.user_id), appended)
        after = client.recommend(request)
        inline = client.recommend(
            replace(request, user_id="", history=[*sent, *(sent_as(event) for event in appended)])
        )
    assert (before.kv_source, after.kv_source) == ("prefill", "prefix")
    assert before.bundle_id == after.bundle_id == own_store.bundle.name
    assert differences(promised, [before], [answer_of(own_store, history)]) == ""
    assert differences(promised, [after, inline], [answer_of(own_store, extended)] * 2) == ""
    assert differences(promised, [after], [Answer.served(before)]) != ""


def differences(promised: Likeness, found: list[RecommendResponse], right: list[Answer]) -> str:
    return promised.differences([Answer.served(response) for response in found], right)


def test_a_store_that_is_replaced_is_read_from_the_next_request_on(
    fresh_server: EmbeddedServer, own_store: Exported, promised: Likeness
) -> None:
    user, skipped = user_of(own_store, length=61), 3
    request = by_id_alone(own_store, user)
    data = own_store.bundle.parents[1] / "data"
    command = [
        *(sys.executable, "-m", "commands.store", "import", "--dataset", str(data)),
        *("--replace", "--skip-last", str(skipped), "--histories", str(own_store.histories)),
    ]
    with GrpcClient(fresh_server.grpc_url) as client:
        client.recommend(request)
        subprocess.run(command, check=True, cwd=ROOT)
        found = client.recommend(request)
    assert (found.kv_source, found.bundle_id) == ("prefix", own_store.bundle.name)
    right = answer_of(own_store, own_store.dataset.history(user)[:-skipped])
    assert differences(promised, [found], [right]) == ""
