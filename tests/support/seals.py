"""Tensors between nodes, as who knows the server's key can make and change them."""

from collections.abc import Callable, Sequence

from ensemble.graph import Tensors
from ensemble.kv.pool import Handle
from ensemble.nodes.encoded import encoded_from_bytes, encoded_to_bytes
from ensemble.nodes.seal import KV_HANDLE, VOUCHED, Seal
from ensemble.settings import ServingSettings


def seal_of(bundle_id: str) -> Seal:
    return Seal(ServingSettings(), bundle_id)


def sealed(bundle_id: str, tensors: Tensors, *names: str, **contents: Sequence[bytes]) -> Tensors:
    """The tensors, and for one request what vouches for them and what holds `contents`."""
    seal, users = seal_of(bundle_id), len(next(iter(tensors.values())))
    tokens = seal.tokens(users)
    made = dict(tensors)
    for name in (*names, *contents):
        made |= seal.close(name, tokens, contents.get(name), tensors)
    return made


def resealed(
    bundle_id: str,
    given: Tensors,
    changed: Tensors | None = None,
    **change: Callable[[list[bytes]], Sequence[bytes]],
) -> Tensors:
    """Tensors of a request with some of them `changed`, vouched for all the same, and contents after
    `change`."""
    seal, tensors = seal_of(bundle_id), given | (changed or {})
    for name in change.keys() | {name for name in VOUCHED if name in given}:
        opened = seal.open(given, name)
        contents = [row.content[name] for row in opened]
        tokens = [row.token for row in opened]
        tensors |= seal.close(name, tokens, change.get(name, list)(contents), tensors)
    return tensors


def contents_of(bundle_id: str, tensors: Tensors, name: str) -> list[bytes]:
    return [row.content[name] for row in seal_of(bundle_id).open(tensors, name)]


def handles_of(bundle_id: str, tensors: Tensors) -> list[Handle]:
    return [encoded_from_bytes(content)[0] for content in contents_of(bundle_id, tensors, KV_HANDLE)]


def with_handles(bundle_id: str, tensors: Tensors, handles: Sequence[Handle]) -> Tensors:
    """A request's tensors with other handles, as if they were its own."""

    def changed(contents: list[bytes]) -> list[bytes]:
        states = [encoded_from_bytes(content)[1] for content in contents]
        return [encoded_to_bytes(*pair) for pair in zip(handles, states, strict=True)]

    return resealed(bundle_id, tensors, KV_HANDLE=changed)
