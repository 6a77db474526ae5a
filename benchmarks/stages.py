"""Where the time of a request goes, from the server's own statistics."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import tritonclient.grpc as triton

from benchmarks.report import NodeTime, Stages

NS_PER_MS = 1e6
SETTLING_S = 0.05
MOST_READS = 40


@dataclass(frozen=True, slots=True)
class Counters:
    """What one node has done since it was loaded, for requests that succeeded."""

    requests: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    """Input and inference. The server's time of output also covers what follows the answer, when the next
    node is at work already."""

    def __sub__(self, earlier: Self) -> "Counters":
        return Counters(
            self.requests - earlier.requests,
            self.queue_ns - earlier.queue_ns,
            self.compute_ns - earlier.compute_ns,
        )


class ServerStatistics:
    """Reads the statistics and configurations of models; needs the server's admin headers."""

    def __init__(self, client: triton.InferenceServerClient, headers: Mapping[str, str]) -> None:
        self._client = client
        self._headers = dict(headers)

    def nodes(self, ensemble: str) -> tuple[str, ...]:
        """The ensemble's models in order."""
        steps = self.config(ensemble)["ensemble_scheduling"]["step"]
        return tuple(str(step["model_name"]) for step in steps)

    def instances(self, node: str) -> int:
        """Processes that run a node."""
        return sum(int(group.get("count", 1)) for group in self.config(node).get("instance_group", [{}]))

    def settled(self, nodes: Sequence[str]) -> dict[str, Counters]:
        """Counters of these nodes. The server counts a request a moment after it has answered it, so they
        are read until they stay the same."""
        found = {node: _counters(self._of(node)) for node in nodes}
        for _ in range(MOST_READS):
            time.sleep(SETTLING_S)
            earlier, found = found, {node: _counters(self._of(node)) for node in nodes}
            if found == earlier:
                break
        return found

    def _of(self, node: str) -> dict[str, Any]:
        answer = self._client.get_inference_statistics(node, headers=self._headers, as_json=True)
        stats: dict[str, Any] = answer["model_stats"][0].get("inference_stats", {})
        return stats

    def config(self, model: str) -> dict[str, Any]:
        """A model's configuration as JSON."""
        answer = self._client.get_model_config(model, headers=self._headers, as_json=True)
        config: dict[str, Any] = answer["config"]
        return config


def _counters(stats: Mapping[str, Mapping[str, str]]) -> Counters:
    # Zero is left out of protobuf's JSON, and large integers are text in it.
    def ns(*names: str) -> int:
        return sum(int(stats.get(name, {}).get("ns", 0)) for name in names)

    requests = int(stats.get("success", {}).get("count", 0))
    return Counters(requests, ns("queue"), ns("compute_input", "compute_infer"))


def stages_of(stack: str, concurrency: int, counted: Mapping[str, Counters], client_mean_ms: float) -> Stages:
    """Milliseconds of a request at every node and elsewhere.

    `counted` is what the nodes did meanwhile, in their order, `client_mean_ms` the mean latency of the same
    requests.
    """
    times = tuple(
        NodeTime(
            node=node,
            queue_ms=one.queue_ns / max(one.requests, 1) / NS_PER_MS,
            compute_ms=one.compute_ns / max(one.requests, 1) / NS_PER_MS,
        )
        for node, one in counted.items()
    )
    return Stages(
        stack=stack,
        concurrency=concurrency,
        nodes=times,
        rest_ms=client_mean_ms - sum(time.queue_ms + time.compute_ms for time in times),
        total_ms=client_mean_ms,
    )


def mean_stages(rounds: Sequence[Stages]) -> Stages:
    """The mean over rounds, part by part."""
    first, count = rounds[0], len(rounds)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / count

    return Stages(
        stack=first.stack,
        concurrency=first.concurrency,
        nodes=tuple(
            NodeTime(
                node=node.node,
                queue_ms=mean([one.nodes[place].queue_ms for one in rounds]),
                compute_ms=mean([one.nodes[place].compute_ms for one in rounds]),
            )
            for place, node in enumerate(first.nodes)
        ),
        rest_ms=mean([one.rest_ms for one in rounds]),
        total_ms=mean([one.total_ms for one in rounds]),
    )
