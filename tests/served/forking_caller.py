"""A process that uses a client, forks, and lets parent and children go on: what each of them got, as JSON.

`python -m tests.served.forking_caller case url`. The tests' own process is full of threads, which a fork cuts
off.
"""

import asyncio
import json
import multiprocessing
import sys
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection

from unipinrec_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    Client,
    GrpcClient,
    HttpClient,
    RecommendRequest,
    RecommendResponse,
    RetryPolicy,
)

USERS, CHILDREN, ROUNDS = 12, 4, 8
LONGEST_S = 20.0
ONCE = RetryPolicy(attempts=1)

Outcomes = dict[str, int]
Share = tuple[int, ...]
"""Users that one process asks for."""


def request(user: int) -> RecommendRequest:
    return RecommendRequest(user_id=f"user-{user}", num_results=5, request_time=1_750_000_000)


def items(response: RecommendResponse) -> list[int]:
    return [item.item_id for item in response.recommendations]


class Caller:
    """Asks for users whose answers it knows."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._items = {user: items(client.recommend(request(user))) for user in range(USERS)}
        if len({tuple(found) for found in self._items.values()}) < USERS:
            raise RuntimeError("two users have the same items, so that their answers cannot be told apart")

    def ask(self, users: Share) -> Outcomes:
        outcomes: Counter[str] = Counter()
        for _ in range(ROUNDS):
            for user in users:
                try:
                    found = items(self._client.recommend(request(user)))
                    outcomes["right" if found == self._items[user] else "wrong"] += 1
                except Exception as error:
                    outcomes[f"{type(error).__name__}: {error}"] += 1
        return dict(outcomes)


def in_children(work: Callable[[Share], Outcomes]) -> list[Outcomes]:
    """What `work` gives in each of several forked processes that run at once."""
    context = multiprocessing.get_context("fork")

    def run(share: Share, result: Connection) -> None:
        result.send(work(share))

    started = []
    for child in range(CHILDREN):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(tuple(range(child, USERS, CHILDREN)), sender))
        process.start()
        started.append((process, receiver))
    results = []
    for process, receiver in started:
        results.append(receiver.recv() if receiver.poll(LONGEST_S) else {"no end": 1})
        process.join(LONGEST_S)
        process.kill()
    return results


def http(url: str) -> dict[str, list[Outcomes]]:
    """One client, inherited by children of the main thread and of another."""
    caller = Caller(HttpClient(url, retry=ONCE))
    children = in_children(caller.ask)
    here = [caller.ask((0, 1))]

    def in_thread() -> None:
        here.append(caller.ask((2, 3)))
        children.extend(in_children(caller.ask))
        here.append(caller.ask((4, 5)))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    return {"children": children, "here": [*here, caller.ask((6, 7))]}


def grpc(url: str) -> dict[str, list[Outcomes]]:
    """One client, inherited, and closed by each child. Its own retries are part of what outlives a fork: gRPC
    may find the connection of a child's first call removed."""
    client = GrpcClient(url)
    caller = Caller(client)

    def work(share: Share) -> Outcomes:
        outcomes = caller.ask(share)
        client.close()
        return outcomes

    return {"children": in_children(work), "here": [caller.ask((0, 1))]}


def asyncio_(kind: type[AsyncGrpcClient] | type[AsyncHttpClient], url: str) -> dict[str, list[Outcomes]]:
    """An asyncio client that is connected; children use it, and one of their own."""

    async def ask(client: AsyncGrpcClient | AsyncHttpClient) -> str:
        try:
            return "right" if items(await client.recommend(request(0))) == expected else "wrong"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    async def ask_own() -> str:
        async with kind(url, retry=ONCE) as own:
            return await ask(own)

    def work(_: Share) -> Outcomes:
        outcomes = [asyncio.run(ask(inherited)), asyncio.run(ask_own())]
        asyncio.run(inherited.close())
        return {
            f"{place} {outcome}": 1 for place, outcome in zip(("inherited", "own"), outcomes, strict=True)
        }

    async def use() -> dict[str, list[Outcomes]]:
        nonlocal expected
        async with inherited:
            expected = items(await inherited.recommend(request(0)))
            children = in_children(work)
            return {"children": children, "here": [{await ask(inherited): 1}]}

    expected: list[int] = []
    inherited = kind(url, retry=ONCE)
    return asyncio.run(use())


CASES: dict[str, Callable[[str], dict[str, list[Outcomes]]]] = {
    "http": http,
    "grpc": grpc,
    "asyncio-http": lambda url: asyncio_(AsyncHttpClient, url),
    "asyncio-grpc": lambda url: asyncio_(AsyncGrpcClient, url),
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](sys.argv[2])))
