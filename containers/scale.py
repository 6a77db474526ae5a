"""Three replicas of the image behind HAProxy, one of which is stopped."""

import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from containers.check import IMAGE, variables
from containers.compose import read_service
from containers.container import Container
from containers.engine import Engine, EngineError
from containers.failover import ask_all, homes, share_at_home
from containers.proxy import Proxy
from containers.shared_store import shared_store
from ensemble.server.endpoints import Endpoints

REPLICAS = ("replica-1", "replica-2", "replica-3")
USERS = [str(user) for user in range(1, 101)]


def try_three(engine: Engine, bundle: Path) -> dict[str, Any]:
    """Start the compose file's three replicas and this host's HAProxy, ask for users over both protocols by
    TLS, stop the first replica, and ask again; return what was found.

    Raises:
        EngineError: users do not stay on their replica while all live.
        ProxyError: HAProxy is not installed, or does not notice the stop.
        RecommendError: a request fails.
    """
    with ExitStack() as stack:
        stores = stack.enter_context(shared_store())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        containers = []
        for name, endpoints in zip(REPLICAS, Endpoints.free_for(len(REPLICAS)), strict=True):
            service = read_service(name, variables(bundle, stores))
            replica = Container.running(engine, IMAGE, name, service, bundle.name, endpoints)
            containers.append(stack.enter_context(replica))
        healthy_s = [container.wait_until_healthy() for container in containers]
        proxy = stack.enter_context(Proxy([container.endpoints for container in containers], folder))
        for name in REPLICAS:
            proxy.wait_for(f"http/{name}", "UP")
        steady = ask_all(proxy, USERS) + ask_all(proxy, USERS)
        usual = homes(steady)
        share = share_at_home(steady, usual)
        if share < 1:
            raise EngineError(f"{share:.3f} of the requests went to their user's replica; wanted: 1")
        stop_s = containers[0].stop()
        proxy.wait_for(f"http/{REPLICAS[0]}", "DOWN")
        moved = homes(ask_all(proxy, USERS))
    found = {
        "healthy_s": [round(value, 1) for value in healthy_s],
        "users_by_replica": dict(sorted(Counter(usual.values()).items())),
        "share_at_home": share,
        "stop_s": round(stop_s, 1),
        "users_by_replica_after_the_stop": dict(sorted(Counter(moved.values()).items())),
    }
    engine.report(f"  {found}")
    return found
