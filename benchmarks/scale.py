"""Kills one of three replicas behind the proxy under load: `python -m benchmarks.scale`."""

import json
import os
import platform
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from unipinrec_client import GrpcClient, HttpClient, RecommendError, RecommendRequest, RetryPolicy
from unipinrec_client.routing import routing_key

from benchmarks.fleet import Fleet
from benchmarks.proxy import Access, Proxy
from ensemble.settings import ROOT, ServingSettings

RESULT = ROOT / "benchmarks" / "results" / "scale.json"
CALLERS_A_PROTOCOL = 4
TIMEOUT_S = 5.0


@dataclass(kw_only=True, slots=True)
class ScaleResult:
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
    """Those that were not answered."""
    failed_over_s: float
    """Seconds from the kill to the last failure; 0 without one."""
    seconds_until_taken_out: float
    """From the kill until the proxy saw the replica as down."""
    share_of_others_under_kill: float
    """Requests of the other replicas' users that went to their usual replica."""
    share_after_return: float
    """As `share_while_all_live`, after the killed replica was back."""
    seconds_until_back: float
    """From the first answer of the restarted replica until the proxy used it again."""


class Load:
    """Callers that ask for users in turn through the proxy until they are told to stop."""

    def __init__(self, proxy: Proxy, users: Sequence[str]) -> None:
        self._proxy = proxy
        self._users = users
        self._stopped = threading.Event()
        self.sent = 0
        self.failures: list[tuple[float, str]] = []
        """When each failed request failed, on the monotonic clock in seconds, and why."""
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._call, args=(kind, number), daemon=True)
            for kind in (GrpcClient, HttpClient)
            for number in range(CALLERS_A_PROTOCOL)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _call(self, kind: type[GrpcClient] | type[HttpClient], first: int) -> None:
        with connect(kind, self._proxy) as client:
            position = first
            while not self._stopped.is_set():
                try:
                    client.recommend(RecommendRequest(user_id=self._users[position % len(self._users)]))
                except RecommendError as error:
                    with self._lock:
                        self.failures.append((time.monotonic(), f"{kind.__name__}: {error}"))
                with self._lock:
                    self.sent += 1
                position += CALLERS_A_PROTOCOL


def connect(kind: type[GrpcClient] | type[HttpClient], proxy: Proxy) -> GrpcClient | HttpClient:
    """A client that goes through the proxy by TLS and tries once."""
    url = proxy.grpc_url if kind is GrpcClient else proxy.http_url
    return kind(
        url,
        ssl=True,
        root_certificates=str(proxy.certificate),
        timeout_s=TIMEOUT_S,
        retry=RetryPolicy(attempts=1),
    )


def ask_all(proxy: Proxy, users: Iterable[str]) -> list[Access]:
    """Asks once for each user over each protocol; what the proxy logged of it."""
    known = list(users)
    before = len(proxy.accesses())
    for kind in (GrpcClient, HttpClient):
        with connect(kind, proxy) as client:
            for user in known:
                client.recommend(RecommendRequest(user_id=user))
    return logged(proxy, before, 2 * len(known))


def logged(proxy: Proxy, since: int, count: int) -> list[Access]:
    """The log from `since` on once it holds `count` requests: a line is written after its answer."""
    deadline = time.monotonic() + 5.0
    while len(proxy.accesses(since)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return proxy.accesses(since)


def homes(accesses: Iterable[Access]) -> dict[str, str]:
    """Each user's usual replica."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for access in accesses:
        seen[access.user][access.replica] += 1
    return {user: replicas.most_common(1)[0][0] for user, replicas in seen.items()}


def share_at_home(accesses: Iterable[Access], usual: Mapping[str, str]) -> float:
    """The share of requests that went to their user's usual replica."""
    at_home = [access.replica == usual[access.user] for access in accesses if access.user in usual]
    return sum(at_home) / len(at_home)


def kill_and_return(fleet: Fleet, proxy: Proxy, users: Sequence[str], after_s: float) -> ScaleResult:
    """Kills replica 1 under load, goes on for `after_s` seconds after it is out, and starts it again.

    Raises:
        ProxyError: the proxy does not take the replica out or back.
    """
    steady = ask_all(proxy, users) + ask_all(proxy, users)
    usual = homes(steady)
    others = {user: home for user, home in usual.items() if home != "replica-1"}
    with Load(proxy, users) as load:
        time.sleep(1.0)
        before, sent_before = len(proxy.accesses()), load.sent
        killed = time.monotonic()
        fleet.kill(1)
        out_s = proxy.wait_for("grpc/replica-1", "DOWN")
        time.sleep(after_s)
    under_kill = logged(proxy, before, load.sent - sent_before)
    fleet.restart(1)
    back_s = proxy.wait_for("grpc/replica-1", "UP")
    return ScaleResult(
        users=len(usual),
        callers=2 * CALLERS_A_PROTOCOL,
        share_while_all_live=share_at_home(steady, usual),
        users_by_replica=dict(sorted(Counter(usual.values()).items())),
        requests_under_kill=load.sent - sent_before,
        failed=len(load.failures),
        failed_over_s=max((at - killed for at, _ in load.failures), default=0.0),
        seconds_until_taken_out=out_s,
        share_of_others_under_kill=share_at_home(under_kill, others),
        share_after_return=share_at_home(ask_all(proxy, users), usual),
        seconds_until_back=back_s,
    )


def main() -> None:
    """Runs it on the current bundle and writes the committed result."""
    settings = ServingSettings()
    users = [str(user) for user in range(1, 301)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(settings, Path(folder)) as fleet,
        Proxy(fleet.endpoints, Path(folder)) as proxy,
    ):
        for number in (1, 2, 3):
            proxy.wait_for(f"grpc/replica-{number}", "UP")
        result = kill_and_return(fleet, proxy, users, after_s=15.0)
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared by servers, proxy and callers",
        "bundle": settings.bundle.resolve().name,
        "example_key": routing_key(users[0]),
        **asdict(result),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
