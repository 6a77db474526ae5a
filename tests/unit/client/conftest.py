"""Servers that play Triton's part, stopped after each test."""

import pytest

from tests.support.triton_servers import GrpcServer, HttpServer


@pytest.fixture
def grpc_server():
    server = GrpcServer()
    yield server
    server.stop()


@pytest.fixture
def http_server():
    server = HttpServer()
    yield server
    server.stop()
