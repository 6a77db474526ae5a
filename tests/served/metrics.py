"""Reads Triton's metrics endpoint."""

import re
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

from ensemble.embedded_server import EmbeddedServer
from ensemble.metrics import EXPORT_S


def metric(server: EmbeddedServer, name: str, **labels: str) -> float:
    """The value of one metric whose labels include these; 0 before it was first counted."""
    time.sleep(2 * EXPORT_S)
    address = urlsplit(server.metrics_url)
    connection = HTTPConnection(address.netloc, timeout=5)
    connection.request("GET", address.path)
    text = connection.getresponse().read().decode()
    connection.close()
    for labelled, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE):
        if all(f'{label}="{wanted}"' in labelled for label, wanted in labels.items()):
            return float(value)
    return 0.0
