"""Malformed requests, drawn at random from what each model's configuration allows, and how they are judged.

What ends the bundled Triton 2.51 itself, or makes it take any amount of memory, is left out: no node sees it,
and the proxy refuses it (docs/deployment.md).
"""

import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from tests.support.wire import Reply, Wire, WireRequest, WireTensor, tensors_in

LEFT_OUT = {
    "a JSON shape of many more values than its data": "takes memory for all of them, or ends the server",
    "JSON that is nested deeply": "ends the server",
    "a body in many chunks": "ends the server",
    "the parameter classification for an output of texts": "ends the server",
    "a compressed body": "is unpacked to any size",
}
"""What Triton 2.51 does not survive, and what becomes of it."""

DATATYPES = (
    "BOOL",
    "UINT8",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
    "BF16",
    "",
    "?",
)
SIZES = {"INT64": 8, "INT32": 4, "FP32": 4}
EXTREMES = {
    "INT64": (0, -1, 1, 2**31, 2**32 + 3, 2**53, 2**63 - 1, -(2**63)),
    "INT32": (0, -1, 2**31 - 1, -(2**31)),
    "FP32": (0.0, -1.0, float("nan"), float("inf"), float("-inf"), 3.4e38, 1e-45),
}
CODES = {"INT64": "q", "INT32": "i", "FP32": "f"}
LENGTHS = (0, 1, -1, 2, 3, 17, 100, 2**31, 2**32 + 1, 2**60, 2**61, 2**62, 2**62 + 4, 2**63 - 1, -(2**63))
OURS = re.compile(r"(^|, )(\w+Error|\w+Exception|KeyError): |Stub process|deadlock")
"""What an error of a node looks like that is none of the caller's."""

T = TypeVar("T")


class Draw:
    """Draws from a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def randrange(self, stop: int) -> int:
        return int(self._rng.integers(stop))

    def random(self) -> float:
        return float(self._rng.random())

    def randbytes(self, count: int) -> bytes:
        return self._rng.bytes(count)

    def choice(self, options: Sequence[T]) -> T:
        return options[self.randrange(len(options))]

    def choices(self, options: Sequence[T], k: int) -> list[T]:
        return [self.choice(options) for _ in range(k)]

    def sample(self, options: Sequence[T], k: int) -> list[T]:
        return [options[place] for place in self._rng.permutation(len(options))[:k]]


Change = Callable[[Draw, WireRequest, WireRequest], None]


def _tensor(draw: Draw, request: WireRequest) -> WireTensor:
    return draw.choice(request.inputs)


def other_datatype(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    _tensor(draw, request).datatype = draw.choice(DATATYPES)


def other_length(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    shape = _tensor(draw, request).shape
    shape[draw.randrange(len(shape))] = draw.choice(LENGTHS)


def other_rank(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    shape = _tensor(draw, request).shape
    if draw.random() < 0.5:
        del shape[draw.randrange(len(shape))]
    else:
        shape.insert(draw.randrange(len(shape) + 1), draw.choice((1, 1, 2, 2**62)))


def shape_that_overflows(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    tensor = _tensor(draw, request)
    size = SIZES.get(tensor.datatype, 1)
    kept = draw.choice((0, 4))
    tensor.shape = [*tensor.shape[:-1], 2**64 // size // draw.choice((1, 2)) + kept]
    tensor.content = bytes(size * kept)


def cut_content(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    tensor = _tensor(draw, request)
    tensor.content = tensor.content[: draw.randrange(len(tensor.content) + 1)]


def more_content(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    _tensor(draw, request).content += draw.randbytes(draw.choice((1, 4, 8, 1000)))


def other_bits(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    tensor = _tensor(draw, request)
    content = bytearray(tensor.content)
    for _place in range(min(len(content), draw.choice((1, 3, 50)))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    tensor.content = bytes(content)


def extreme_values(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    tensor = _tensor(draw, request)
    if tensor.datatype in CODES:
        count = len(tensor.content) // SIZES[tensor.datatype]
        values = [draw.choice(EXTREMES[tensor.datatype]) for _ in range(count)]
        tensor.content = struct.pack(f"<{count}{CODES[tensor.datatype]}", *values)


def more_values(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    tensor = _tensor(draw, request)
    count = draw.choice((129, 1025, 8193, 20_000))
    if tensor.datatype in CODES:
        tensor.shape = [*[1] * (len(tensor.shape) - 1), count]
        tensor.content = draw.randbytes(SIZES[tensor.datatype]) * count


def other_text(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    tensor = _tensor(draw, request)
    text = draw.choice((b"", b"\0", b"\xff\xfe", b"x" * 257, b"y" * 100_000, draw.randbytes(200)))
    length = draw.choice((len(text), len(text), 2**32 - 1, 2**31, len(text) + 1, max(0, len(text) - 1)))
    tensor.content = struct.pack("<I", length) + text


def many_users(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    users = draw.choice((2, 16, 17, 1000))
    for tensor in request.inputs:
        if draw.random() < 0.95:
            tensor.shape[0] *= users
            tensor.content *= users


def missing(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    request.inputs.remove(_tensor(draw, request))


def twice(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    request.inputs.insert(draw.randrange(len(request.inputs) + 1), deepcopy(_tensor(draw, request)))


def other_name(draw: Draw, request: WireRequest, other: WireRequest) -> None:
    names = (
        "",
        "user_id",
        "X" * 10_000,
        "\u0000",
        "BUNDLE_ID",
        "ADMIN_KEY",
        "REQUEST_ID",
        _tensor(draw, other).name,
    )
    _tensor(draw, request).name = draw.choice(names)


def of_another_request(draw: Draw, request: WireRequest, other: WireRequest) -> None:
    """As who has seen what was sealed for somebody else."""
    theirs = _tensor(draw, other)
    for place, tensor in enumerate(request.inputs):
        if tensor.name == theirs.name:
            request.inputs[place] = deepcopy(theirs)


def other_outputs(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    names = ("ITEM_IDS", "KV_SOURCE", "SEALED_HISTORY", "NONE", "", "X" * 5_000)
    request.outputs = draw.choices(names, k=draw.choice((1, 2, 50)))


def other_parameters(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    names = ("priority", "timeout", "sequence_id", "sequence_start", "binary_data_output", "headers", "x")
    values = (0, -1, 2**62, True, 1.5, "", "text", "\u0000", "9" * 1_000)
    request.parameters = {draw.choice(names): draw.choice(values) for _ in range(draw.choice((1, 5)))}


def other_id(draw: Draw, request: WireRequest, _: WireRequest) -> None:
    request.id = draw.choice(("", "\u0000", "x" * 100_000, "\u2028\n{}", "é" * 50))


CHANGES: tuple[Change, ...] = (
    other_datatype, other_length, other_rank, shape_that_overflows, cut_content, more_content, other_bits,
    extreme_values, more_values, other_text, many_users, missing, twice, other_name, of_another_request,
    other_outputs, other_parameters, other_id,
)  # fmt: skip


def broken_message(draw: Draw, message: bytes) -> bytes:
    """A message of which bytes are missing, others, or more."""
    place, way = draw.randrange(len(message)), draw.randrange(3)
    if way == 0:
        return message[:place]
    if way == 1:
        return message[:place] + draw.randbytes(draw.choice((1, 8))) + message[place + 1 :]
    return message + draw.randbytes(draw.choice((1, 100)))


def json_of(draw: Draw, request: WireRequest) -> bytes:
    """The request with its values in JSON, one of them or one of the fields another."""
    header = request.header()
    for described, tensor in zip(header["inputs"], request.inputs, strict=True):
        del described["parameters"]
        described["data"] = _values_of(tensor)
    odd: tuple[Any, ...] = (
        None,
        True,
        -1,
        1.5,
        "text",
        [],
        {},
        [[]],
        10**30,
        -(10**30),
        "\u0000",
        [1, [2, [3]]],
        "é",
    )
    parts = [header, *header["inputs"]]
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.choice(parts)
        if at:
            name = draw.choice([*at])
            value = at[name]
            if isinstance(value, list) and value and name != "shape" and draw.random() < 0.7:
                value[draw.randrange(len(value))] = draw.choice(odd)
            elif name == "shape":
                at[name] = draw.choice(
                    ([], [1], [1, 0], [1, 1, 1], [-1, 1], [1, 1000], ["1", 1], [1.5], None, 7)
                )
            else:
                at[name] = draw.choice(odd)
    body = json.dumps(header).encode()
    return broken_message(draw, body) if draw.random() < 0.2 else body


def _values_of(tensor: WireTensor) -> list[Any]:
    if tensor.datatype in CODES:
        count = len(tensor.content) // SIZES[tensor.datatype]
        return list(struct.unpack_from(f"<{count}{CODES[tensor.datatype]}", tensor.content))
    return [tensor.content[4:40].decode(errors="replace")]


@dataclass(slots=True)
class Judged:
    """How many requests of each kind were answered how."""

    requests: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_change: Counter[str] = field(default_factory=Counter)
    of_triton: Counter[str] = field(default_factory=Counter)
    """Errors of the server for requests where the caller was at fault, which Triton gave itself, without a
    node's seeing the request."""
    wrong: list[str] = field(default_factory=list)
    """What no rule allows."""

    def report(self) -> dict[str, Any]:
        """Return the counts, the largest first."""
        counts = {"by_status": self.by_status, "of_triton": self.of_triton, "by_change": self.by_change}
        return {"requests": self.requests, "wrong": self.wrong} | {
            name: dict(counter.most_common()) for name, counter in counts.items()
        }

    def add(self, change: str, protocol: str, model: str, reply: Reply, item_ids: set[int]) -> None:
        self.requests += 1
        self.by_status[f"{protocol} {reply.status}"] += 1
        self.by_change[f"{change}: {'answered' if reply.answered else 'refused'}"] += 1
        if reply.answered:
            problem = _problem_of(reply, item_ids) if protocol == "grpc" and model == "recommend" else None
        elif reply.refused:
            problem = None
        elif reply.status in ("500", "INTERNAL", "UNKNOWN") and not OURS.search(reply.text):
            self.of_triton[f"{protocol} {reply.status}: {re.sub(r'[0-9]+', '9', reply.text)[:80]}"] += 1
            problem = None
        else:
            problem = f"{reply.status} {reply.text[:300]}"
        if problem is not None:
            self.wrong.append(f"{protocol} {model}, {change}: {problem}")


def _problem_of(reply: Reply, item_ids: set[int]) -> str | None:
    """What is wrong with an answered recommendation, whatever was asked."""
    tensors = tensors_in(reply)
    for row in tensors.get("ITEM_IDS", np.empty((0, 0), np.int64)).tolist():
        found = [item for item in row if item != -1]
        if len(found) != len(set(found)) or not set(found) <= item_ids:
            return f"items {row}"
    for name in ("SCORES", "ACTION_PROBS"):
        if name in tensors and not np.isfinite(tensors[name]).all():
            return f"{name} is not finite"
    return None


def send_malformed(
    wire: Wire,
    bases: dict[str, list[WireRequest]],
    draw: Draw,
    item_ids: set[int],
    judged: Judged,
) -> None:
    """Send one malformed request to a model of `bases`, which has two good ones for each, and judge it."""
    model = draw.choice([*bases])
    request, other = map(deepcopy, draw.sample(bases[model], 2))
    way = draw.choice(("grpc", "grpc", "http", "broken grpc", "broken http", "json"))
    name = way if way == "json" else _change(draw, request, other)
    path = f"/v2/models/{model}/infer"
    if way == "json":
        reply = wire.over_http(path, json_of(draw, request), {})
    elif way.endswith("grpc"):
        message = request.to_grpc()
        reply = wire.over_grpc(broken_message(draw, message) if way == "broken grpc" else message)
    else:
        body, headers = request.to_http()
        if way == "broken http" and draw.random() < 0.5:
            body = broken_message(draw, body)
        elif way == "broken http":
            lengths = ("", "-1", "0", "5", "x", "9" * 30, str(len(body) + 1))
            headers["Inference-Header-Content-Length"] = draw.choice(lengths)
        reply = wire.over_http(path, body, headers)
    protocol = "grpc" if way.endswith("grpc") else "http"
    judged.add(f"{way}, {name}" if "broken" in way else name, protocol, model, reply, item_ids)


def _change(draw: Draw, request: WireRequest, other: WireRequest) -> str:
    """Change a request once or twice, and return how."""
    changes = draw.choices(CHANGES, k=draw.choice((1, 1, 1, 2)))
    for change in changes:
        if request.inputs and all(tensor.shape for tensor in request.inputs):
            change(draw, request, other)
    return changes[0].__name__
