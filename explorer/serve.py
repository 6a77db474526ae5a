"""The page on a port of its own."""

import logging
from pathlib import Path

import streamlit as st

from explorer.page import Explorer, draw

SCRIPT = Path(__file__).with_name("script.py")
LOOPBACK = ("127.0.0.1", "localhost")

logger = logging.getLogger(__name__)

_served: list[Explorer] = []


def serve(explorer: Explorer, *, address: str, port: int) -> None:
    """Serve the page until a signal ends it. On loopback, other names of this host than these are refused, so
    that no page of another site can read it by a name of its own."""
    _served[:] = [explorer]
    st.App(SCRIPT, on_script_error=_told).run(
        config={
            "server.address": address,
            "server.port": port,
            "server.allowedHosts": list(LOOPBACK) if address in LOOPBACK else [],
            "server.headless": True,
            "server.fileWatcherType": "none",
            "server.enableCORS": True,
            "server.enableXsrfProtection": True,
            "server.enableAgentApi": False,
            "browser.gatherUsageStats": False,
            "client.showErrorDetails": "none",
            "client.toolbarMode": "minimal",
            "logger.hideWelcomeMessage": True,
            "theme.base": "light",
            "theme.primaryColor": "#2563eb",
        }
    )


def draw_served() -> None:
    """Draw the page that this process serves, for one visitor."""
    draw(_served[0])


def _told(error: Exception) -> bool:
    logger.error("the page failed", exc_info=error)
    st.error("The page failed; the terminal that it runs in says why.")
    return True
