"""A process that was forked during a call of gRPC names it, instead of making calls that never end."""

import os
from contextlib import nullcontext

import pytest
from unipinrec_client.grpc_client import grpc_use


def broken_in_a_child() -> str:
    """What a forked process says of its blocking calls; without a channel, the fork itself is safe."""
    ours, childs = os.pipe()
    child = os.fork()
    if not child:
        os.write(childs, grpc_use.broken_by.encode())
        os._exit(0)
    os.close(childs)
    with os.fdopen(ours) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("during_a_call", [True, False])
def test_a_child_knows_whether_a_call_was_under_way_at_the_fork(during_a_call: bool) -> None:
    with grpc_use.call() if during_a_call else nullcontext():
        said = broken_in_a_child()
    named = "calls under way at a fork are 1; allowed with gRPC: 0; fork while no call is under way, "
    assert said.startswith(named) if during_a_call else said == ""
    assert grpc_use.broken_by == ""
