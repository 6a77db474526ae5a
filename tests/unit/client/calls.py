"""Calls through any of the four clients."""

import asyncio

from unipinrec_client import (
    AsyncClient,
    AsyncGrpcClient,
    AsyncHttpClient,
    GrpcClient,
    HttpClient,
    RecommendRequest,
    RetryPolicy,
)

GRPC = (GrpcClient, AsyncGrpcClient)
HTTP = (HttpClient, AsyncHttpClient)
ALL = (*GRPC, *HTTP)
QUICK = RetryPolicy(attempts=3, initial_wait_s=0.02, max_wait_s=0.1)
ONCE = RetryPolicy(attempts=1)


def call(kind, url, method, *arguments, **options):
    """What a method of a client returns, its last answer if it is called with several arguments in turn."""

    async def asked():
        async with kind(url, **options) as client:
            for argument in arguments[:-1]:
                await getattr(client, method)(argument)
            return await getattr(client, method)(*arguments[-1:])

    if issubclass(kind, AsyncClient):
        return asyncio.run(asked())
    with kind(url, **options) as client:
        for argument in arguments[:-1]:
            getattr(client, method)(argument)
        return getattr(client, method)(*arguments[-1:])


def ask(kind, url, *requests, **options):
    """The answer to the last of some requests, which go one after the other through one client."""
    requests = requests or (RecommendRequest(user_id="42"),)
    return call(kind, url, "recommend", *requests, **({"retry": QUICK} | options))
