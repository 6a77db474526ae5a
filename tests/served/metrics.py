"""Reads Triton's metrics endpoint."""

import re
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

from ensemble.nodes.metrics import EXPORT_S
from ensemble.server.embedded_server import EmbeddedServer


class Scrape:
    """What the endpoint showed at one time, when all that had been counted before was carried over."""

    def __init__(self, server: EmbeddedServer) -> None:
        time.sleep(2 * EXPORT_S)
        address = urlsplit(server.metrics_url)
        connection = HTTPConnection(address.netloc, timeout=5)
        connection.request("GET", address.path)
        self._text = connection.getresponse().read().decode()
        connection.close()

    def value(self, name: str, **labels: str) -> float:
        """The value of one metric whose labels include these; 0 before it was first counted."""
        for labelled, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", self._text, re.MULTILINE):
            if all(f'{label}="{wanted}"' in labelled for label, wanted in labels.items()):
                return float(value)
        return 0.0


def metric(server: EmbeddedServer, name: str, **labels: str) -> float:
    """One value of a `Scrape`."""
    return Scrape(server).value(name, **labels)
