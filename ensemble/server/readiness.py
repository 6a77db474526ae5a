"""Makes Triton's own `/v2/health/ready` tell what its launcher knows.

Triton 2.51 stays ready when the process of a node has died, and with `--strict-readiness` is not while a
model has failed to load. So one that cannot be loaded stands for an outage; an ensemble of its name that can,
unloaded at once, ends it. Either takes milliseconds.
"""

import json

import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToJson

from ensemble.server.embedded_server import OUTAGE, EmbeddedServer

TENSOR = {"name": "NOTHING", "data_type": "TYPE_INT64", "dims": [1]}
UNLOADABLE = json.dumps({"backend": "none", "input": [TENSOR], "output": [TENSOR | {"name": "NEVER"}]})
FILES = {"file:1/none": b"-"}
TIMEOUT_S = 5.0


def set_ready(server: EmbeddedServer, client: triton.InferenceServerClient, *, ready: bool) -> None:
    """Make the server's readiness so. Raises `InferenceServerException` where it does not answer."""
    asked = {"headers": server.admin_headers, "client_timeout": TIMEOUT_S}
    if not ready:
        try:
            client.load_model(OUTAGE, config=UNLOADABLE, files=FILES, **asked)
        except triton.InferenceServerException as error:
            if "backend" not in str(error):
                raise
        return
    config = client.get_model_config(server.ensembles[0], **asked).config
    config.name = OUTAGE
    loadable = MessageToJson(config, preserving_proto_field_name=True)
    client.load_model(OUTAGE, config=loadable, files=FILES, **asked)
    client.unload_model(OUTAGE, **asked)
