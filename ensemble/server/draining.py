"""Lets a server finish the requests that it has accepted.

At its own stop Triton refuses the further steps of ensembles under way, so their requests would fail.
"""

import time
from collections.abc import Mapping, Sequence

import tritonclient.grpc as triton

POLL_S = 0.05
UNDER_WAY = ("READY", "UNLOADING")


def drain(
    client: triton.InferenceServerClient,
    ensembles: Sequence[str],
    *,
    headers: Mapping[str, str],
    timeout_s: float,
) -> bool:
    """Unloads the ensembles and waits for their requests; True when the last one was answered in time.

    New requests are refused from the first moment on. `headers` open the restricted protocols.

    Raises:
        InferenceServerException: the server does not answer.
    """
    deadline = time.monotonic() + timeout_s
    for ensemble in ensembles:
        client.unload_model(ensemble, headers=headers, client_timeout=timeout_s)
    while True:
        index = client.get_model_repository_index(headers=headers, client_timeout=timeout_s)
        if not any(model.name in ensembles and model.state in UNDER_WAY for model in index.models):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
