"""Requests as bytes of both protocols, also those that no client would make."""

import json
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

import grpc
import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from ensemble.graph import Tensors

INFER = "/inference.GRPCInferenceService/ModelInfer"
CLIENTS_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""A caller's error over gRPC; over HTTP it is a status from 400 to 499."""


@dataclass(slots=True)
class WireTensor:
    name: str
    datatype: str
    shape: list[int]
    content: bytes


@dataclass(slots=True)
class WireRequest:
    """An inference, before it is one of a protocol."""

    model: str
    inputs: list[WireTensor]
    outputs: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    @classmethod
    def of(cls, model: str, tensors: Tensors) -> "WireRequest":
        inputs = []
        for name, array in tensors.items():
            texts = array.dtype == np.object_
            content = serialize_byte_tensor(array).item() if texts else array.tobytes()
            inputs.append(WireTensor(name, np_to_triton_dtype(array.dtype), list(array.shape), content))
        return cls(model, inputs)

    def to_grpc(self) -> bytes:
        """Return the message; a number beyond its field's is cut."""
        request = ModelInferRequest(model_name=self.model, id=self.id)
        for tensor in self.inputs:
            made = request.inputs.add(name=tensor.name, datatype=tensor.datatype)
            made.shape.extend((length + 2**63) % 2**64 - 2**63 for length in tensor.shape)
            request.raw_input_contents.append(tensor.content)
        for name in self.outputs:
            request.outputs.add(name=name)
        for name, value in self.parameters.items():
            kind = {bool: "bool_param", int: "int64_param", float: "double_param"}.get(
                type(value), "string_param"
            )
            setattr(request.parameters[name], kind, value)
        message: bytes = request.SerializeToString()
        return message

    def header(self) -> dict[str, Any]:
        """Return the JSON object that stands before binary tensors."""
        inputs = [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": len(tensor.content)},
            }
            for tensor in self.inputs
        ]
        outputs = [{"name": name} for name in self.outputs]
        told = {"id": self.id} if self.id else {}
        return told | {"inputs": inputs, "outputs": outputs, "parameters": self.parameters}

    def to_http(self) -> tuple[bytes, dict[str, str]]:
        """Return a body with binary tensors, and its headers."""
        header = json.dumps(self.header()).encode()
        body = header + b"".join(tensor.content for tensor in self.inputs)
        return body, {"Inference-Header-Content-Length": str(len(header))}


class Reply(NamedTuple):
    """How a request was answered."""

    status: str
    """Of gRPC or HTTP, or why there is none."""
    text: str
    """The error message, or nothing."""
    content: bytes
    """The answer, or nothing."""

    @property
    def answered(self) -> bool:
        return self.status in ("OK", "200")

    @property
    def refused(self) -> bool:
        """Whether it says that the caller is at fault."""
        return self.status in {code.name for code in CLIENTS_FAULT} or self.status[:1] == "4"


class Wire:
    """Sends bytes to a server over both protocols, one request at a time."""

    def __init__(self, grpc_url: str, http_url: str, timeout_s: float = 30.0) -> None:
        self._channel = grpc.insecure_channel(grpc_url, [("grpc.max_receive_message_length", -1)])
        self._infer = self._channel.unary_unary(INFER, lambda message: message, lambda message: message)
        self._http_url = http_url.removeprefix("http://")
        self._timeout_s = timeout_s

    def close(self) -> None:
        self._channel.close()

    def over_grpc(self, message: bytes) -> Reply:
        try:
            return Reply("OK", "", self._infer(message, timeout=self._timeout_s))
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details() or "", b"")

    def over_http(self, path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply:
        """Send a request on a connection of its own."""
        with closing(HTTPConnection(self._http_url, timeout=self._timeout_s)) as connection:
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                content = response.read()
            except (OSError, HTTPException) as error:
                return Reply(type(error).__name__, str(error), b"")
        if response.status == 200:
            return Reply("200", "", content)
        with suppress(ValueError, TypeError, KeyError):
            return Reply(str(response.status), json.loads(content)["error"], b"")
        return Reply(str(response.status), content.decode(errors="replace"), b"")


def tensors_in(reply: Reply) -> Tensors:
    """Return the outputs of an answer over gRPC, numbers alone."""
    answer = ModelInferResponse.FromString(reply.content)
    kinds = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32}
    return {
        output.name: np.frombuffer(raw, kinds[output.datatype]).reshape(output.shape)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        if output.datatype in kinds
    }
