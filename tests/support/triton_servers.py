"""Real servers of either protocol that play Triton's part for the clients' tests, and what they answer."""

import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from tritonclient.grpc import service_pb2
from unipinrec_client import PolicyDecision, Recommendation, RecommendResponse

OVERLOADED, INVALID, BROKEN = "overloaded", "invalid", "broken"


def answer(user_id):
    """One user's answer of one item and a padded one, packed by hand."""
    return {
        "BUNDLE_ID": ("BYTES", [1, 1], text(b"bundle-1")),
        "KV_SOURCE": ("BYTES", [1, 1], text(b"prefix")),
        "UTILITY_SOURCE": ("BYTES", [1, 1], text(b"chosen")),
        "POLICY_DECISION": ("BYTES", [1, 1], text(b'{"policy":"0123456789ab","arm":7,"alpha":0.25}')),
        "USED_UTILITY_WEIGHTS": ("FP32", [1, 2], struct.pack("<2f", 1.0, 0.5)),
        "ITEM_IDS": ("INT64", [1, 2], struct.pack("<2q", int(user_id), -1)),
        "SCORES": ("FP32", [1, 2], struct.pack("<2f", 0.75, -3.4028234663852886e38)),
        "RETRIEVED_BY": ("INT32", [1, 2], struct.pack("<2i", 3, 0)),
        "ACTION_PROBS": ("FP32", [1, 2, 2], struct.pack("<4f", 0.5, 0.25, 0.0, 0.0)),
    }


def text(value):
    return struct.pack("<I", len(value)) + value


def expected(user_id, item_id):
    """What a client makes of `answer`."""
    return RecommendResponse(
        user_id=user_id,
        recommendations=(
            Recommendation(item_id=item_id, score=0.75, action_probabilities=(0.5, 0.25), retrieved_by=3),
        ),
        kv_source="prefix",
        bundle_id="bundle-1",
        utility_weights=(1.0, 0.5),
        utility_source="chosen",
        policy=PolicyDecision(policy="0123456789ab", arm=7, alpha=0.25),
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """Answers with the user id as the item id, after failing or sleeping as told."""

    def __init__(self, **statuses):
        self.statuses = statuses
        self.failures = []
        self.sleeps_s = []
        self.answer = answer
        self.received = []
        """Of each request: model, inputs and headers by name, and the outputs asked for."""

    def fail(self, kind, message, times=1):
        self.failures += [(self.statuses[kind], message)] * times

    def record(self, model, inputs, outputs, headers):
        self.received.append({"model": model, "inputs": inputs, "outputs": outputs, "headers": headers})

    def sleep(self):
        if self.sleeps_s:
            time.sleep(self.sleeps_s.pop(0))


class GrpcServer(Server):
    def __init__(self, address="127.0.0.1:0"):
        codes = grpc.StatusCode
        super().__init__(overloaded=codes.UNAVAILABLE, invalid=codes.INVALID_ARGUMENT, broken=codes.INTERNAL)
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                self._infer,
                service_pb2.ModelInferRequest.FromString,
                service_pb2.ModelInferResponse.SerializeToString,
            ),
            "ModelReady": grpc.unary_unary_rpc_method_handler(
                lambda request, _: service_pb2.ModelReadyResponse(ready=request.name == "recommend"),
                service_pb2.ModelReadyRequest.FromString,
                service_pb2.ModelReadyResponse.SerializeToString,
            ),
        }
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
        self._server.add_generic_rpc_handlers((service,))
        port = self._server.add_insecure_port(address)
        self.url = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self._server.start()

    def _infer(self, request, context):
        inputs = {
            tensor.name: (tensor.datatype, list(tensor.shape), content)
            for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        outputs = {tensor.name for tensor in request.outputs}
        self.record(request.model_name, inputs, outputs, dict(context.invocation_metadata()))
        if self.failures:
            context.abort(*self.failures.pop(0))
        self.sleep()
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, (datatype, shape, content) in self.answer(inputs["USER_ID"][2][4:]).items():
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(content)
        return response

    def stop(self):
        self._server.stop(None).wait()


class HttpServer(Server):
    def __init__(self):
        super().__init__(overloaded=503, invalid=400, broken=500)
        self.sleeps_before_reading_s = []
        self.connections = set()
        self.open_connections = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"played_by": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        # A caller that gave up has left; what is printed of that would stand in another test's output.
        self.server.handle_error = lambda *_: None
        self.url = f"127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def fail(self, kind, message, times=1):
        super().fail(kind, json.dumps({"error": message}).encode(), times)

    def count(self, change, peer):
        with self._lock:
            self.connections.add(peer)
            self.open_connections += change

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.played_by.count(1, self.client_address)

    def finish(self):
        self.played_by.count(-1, self.client_address)
        super().finish()

    def log_message(self, *_):
        """Keep the test's output free of requests."""

    def reply(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200 if self.path == "/v2/models/recommend/ready" else 400, b"")

    def do_POST(self):
        server = self.played_by
        if server.sleeps_before_reading_s:
            time.sleep(server.sleeps_before_reading_s.pop(0))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        begin = int(self.headers["Inference-Header-Content-Length"])
        request = json.loads(body[:begin])
        inputs = {}
        for tensor in request["inputs"]:
            end = begin + tensor["parameters"]["binary_data_size"]
            inputs[tensor["name"]] = (tensor["datatype"], tensor["shape"], body[begin:end])
            begin = end
        outputs = {output["name"] for output in request.get("outputs", [])}
        if not request["parameters"]["binary_data_output"]:
            self.reply(400, b"{}")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        model = self.path.removeprefix("/v2/models/").removesuffix("/infer")
        server.record(model, inputs, outputs, headers)
        server.sleep()
        if server.failures:
            self.reply(*server.failures.pop(0))
            return
        answered = server.answer(inputs["USER_ID"][2][4:])
        listed = [
            {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(content)}}
            for name, (kind, shape, content) in answered.items()
        ]
        head = json.dumps({"model_name": "recommend", "outputs": listed}).encode()
        content = b"".join(content for *_, content in answered.values())
        self.reply(200, head + content, Inference_Header_Content_Length=len(head))
