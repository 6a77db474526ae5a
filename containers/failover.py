"""Users and their replicas behind the proxy while one is killed: `python -m containers.failover`."""

import json
import os
import platform
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from unipinrec_client import GrpcClient, HttpClient, RecommendError, RecommendRequest, RetryPolicy
from unipinrec_client.routing import routing_key

from containers.fleet import REPLICAS, Fleet
from containers.proxy import Access, Proxy
from ensemble.settings import ROOT, ServingSettings

RESULT = ROOT / "benchmarks" / "results" / "scale.json"
CALLERS_A_PROTOCOL = 4
TIMEOUT_S = 5.0

ClientKind = type[GrpcClient] | type[HttpClient]
KINDS: tuple[ClientKind, ...] = (GrpcClient, HttpClient)


@dataclass(kw_only=True, slots=True)
class Failover:
    """What became of users and requests."""

    users: int
    callers: int
    """Closed loops at once, half over gRPC and half over HTTP; none of them tries again."""
    share_while_all_live: float
    """Requests that went to their user's usual replica, of all, over both protocols."""
    users_by_replica: dict[str, int]
    """Users whose usual replica it is."""
    requests_under_kill: int
    """Requests sent while one replica was killed and out."""
    failed: int
    """Requests that were not answered."""
    failed_over_s: float
    """Seconds from the kill to the last failure; 0 without one."""
    seconds_until_taken_out: float
    """From the kill until the proxy saw the replica as down."""
    share_of_others_under_kill: float
    """Requests of the other replicas' users that went to their usual replica."""
    share_after_return: float
    """Share of the requests that went to their usual replica after the killed one was back."""
    seconds_until_back: float
    """From the first answer of the restarted replica until the proxy used it again."""


def connect(kind: ClientKind, proxy: Proxy) -> GrpcClient | HttpClient:
    """Return a client that goes through the proxy by TLS and tries once."""
    return kind(
        proxy.grpc_url if kind is GrpcClient else proxy.http_url,
        ssl=True,
        root_certificates=str(proxy.certificate),
        headers=proxy.headers,
        timeout_s=TIMEOUT_S,
        retry=RetryPolicy(attempts=1),
    )


@contextmanager
def callers(proxy: Proxy, users: Sequence[str]) -> Iterator[list[float | None]]:
    """Ask for users in turn, by callers of both protocols at once, while the block runs.

    The list that the block gets has an entry for each request so far: None for an answer, else the time of
    the failure on the monotonic clock in seconds.
    """
    stopped = Event()
    requests: list[float | None] = []

    def call(kind: ClientKind, position: int) -> None:
        with connect(kind, proxy) as client:
            while not stopped.is_set():
                try:
                    client.recommend(RecommendRequest(user_id=users[position % len(users)]))
                    requests.append(None)
                except RecommendError:
                    requests.append(time.monotonic())
                position += CALLERS_A_PROTOCOL

    with ThreadPoolExecutor(2 * CALLERS_A_PROTOCOL) as pool:
        calls = [pool.submit(call, kind, first) for kind in KINDS for first in range(CALLERS_A_PROTOCOL)]
        try:
            yield requests
        finally:
            stopped.set()
    for done in calls:
        done.result()


def ask_all(proxy: Proxy, users: Sequence[str]) -> list[Access]:
    """Ask once for each user over each protocol, and return what the proxy logged of it."""
    before = len(proxy.accesses())
    for kind in KINDS:
        with connect(kind, proxy) as client:
            for user in users:
                client.recommend(RecommendRequest(user_id=user))
    return logged(proxy, before, 2 * len(users))


def logged(proxy: Proxy, since: int, count: int) -> list[Access]:
    """Return the log from `since` on once it holds `count` requests: a line is written after its answer."""
    deadline = time.monotonic() + 5.0
    while len(proxy.accesses(since)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return proxy.accesses(since)


def homes(accesses: Iterable[Access]) -> dict[str, str]:
    """Return each user's usual replica."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for access in accesses:
        seen[access.user][access.replica] += 1
    return {user: replicas.most_common(1)[0][0] for user, replicas in seen.items()}


def share_at_home(accesses: Iterable[Access], usual: Mapping[str, str]) -> float:
    """Return the share of requests that went to their user's usual replica."""
    at_home = [access.replica == usual[access.user] for access in accesses if access.user in usual]
    return sum(at_home) / len(at_home)


def kill_and_return(fleet: Fleet, proxy: Proxy, users: Sequence[str], after_s: float) -> Failover:
    """Kill replica 1 under load, go on for `after_s` seconds after it is out, and start it again.

    Raises:
        ProxyError: the proxy does not take the replica out or back.
    """
    steady = ask_all(proxy, users) + ask_all(proxy, users)
    usual = homes(steady)
    others = {user: home for user, home in usual.items() if home != "replica-1"}
    with callers(proxy, users) as requests:
        time.sleep(1.0)
        before, sent_before = len(proxy.accesses()), len(requests)
        killed = time.monotonic()
        fleet.kill(1)
        out_s = proxy.wait_for("grpc/replica-1", "DOWN")
        time.sleep(after_s)
    under_kill = logged(proxy, before, len(requests) - sent_before)
    fleet.restart(1)
    back_s = proxy.wait_for("grpc/replica-1", "UP")
    failures = [at for at in requests if at is not None]
    return Failover(
        users=len(usual),
        callers=2 * CALLERS_A_PROTOCOL,
        share_while_all_live=share_at_home(steady, usual),
        users_by_replica=dict(sorted(Counter(usual.values()).items())),
        requests_under_kill=len(requests) - sent_before,
        failed=len(failures),
        failed_over_s=max((at - killed for at in failures), default=0.0),
        seconds_until_taken_out=out_s,
        share_of_others_under_kill=share_at_home(under_kill, others),
        share_after_return=share_at_home(ask_all(proxy, users), usual),
        seconds_until_back=back_s,
    )


def main() -> None:
    """Measure with the current bundle, and write the committed result."""
    settings = ServingSettings()
    users = [str(user) for user in range(1, 301)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(settings, Path(folder)) as fleet,
        Proxy(fleet.endpoints, Path(folder)) as proxy,
    ):
        for number in range(1, REPLICAS + 1):
            proxy.wait_for(f"grpc/replica-{number}", "UP")
        found = kill_and_return(fleet, proxy, users, after_s=15.0)
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared by servers, proxy and callers",
        "bundle": settings.bundle.resolve().name,
        "example_key": routing_key(users[0]),
        **asdict(found),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
