"""Reads Triton's metrics endpoint."""

import time

from prometheus_client.parser import text_string_to_metric_families

from ensemble.nodes.metrics import EXPORT_S
from ensemble.server.embedded_server import EmbeddedServer
from tests.served.exchange import exchange


class Scrape:
    """What the endpoint showed at one time, when all that had been counted before was carried over."""

    def __init__(self, server: EmbeddedServer) -> None:
        time.sleep(2 * EXPORT_S)
        families = text_string_to_metric_families(exchange("GET", server.metrics_url)[1].decode())
        self._samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The value of a metric whose labels include these; 0 before it was first counted."""
        # The parser gives counters that lack it the ending `_total`.
        for sample in self._samples:
            if sample.name in (name, f"{name}_total") and labels.items() <= sample.labels.items():
                return float(sample.value)
        return 0.0


def metric(server: EmbeddedServer, name: str, **labels: str) -> float:
    """One value of a `Scrape`."""
    return Scrape(server).value(name, **labels)
