"""Adds events to stored histories."""

from ensemble.nodes.append_events import AppendEventsNode
from ensemble.nodes.node import EntryPoint


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `append_events` node."""

    node = AppendEventsNode
    may_wait = True
