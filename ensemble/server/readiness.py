"""Makes Triton's own `/v2/health/ready` tell what its launcher knows.

Triton 2.51 stays ready when the process of a node has died, and with `--strict-readiness` is not while a
model has failed to load. So one that cannot be loaded stands for an outage, for which Triton takes
milliseconds. A model of its name that can be loaded, and is unloaded at once, ends it: that takes the start
of a Python process. An ensemble would take none, and have Triton load anew what it names and finds changed.
"""

import json

import tritonclient.grpc as triton

from ensemble.server.embedded_server import OUTAGE, EmbeddedServer

MODEL = b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
TENSOR = {"data_type": "TYPE_INT64", "dims": [1]}
TIMEOUT_S = 20.0


def set_ready(server: EmbeddedServer, client: triton.InferenceServerClient, *, ready: bool) -> None:
    """Make the server's readiness so. Raises `InferenceServerException` where it does not answer."""
    asked = {"headers": server.admin_headers, "client_timeout": TIMEOUT_S}
    config = json.dumps(
        {
            "backend": "python" if ready else "none",
            "input": [{"name": "NOTHING", **TENSOR}],
            "output": [{"name": "NEVER", **TENSOR}],
            "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        }
    )
    try:
        client.load_model(OUTAGE, config=config, files={"file:1/model.py": MODEL}, **asked)
    except triton.InferenceServerException as error:
        if ready or "backend" not in str(error):
            raise
    if ready:
        client.unload_model(OUTAGE, **asked)
