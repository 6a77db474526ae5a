"""Client of the recommendation server: gRPC and HTTP, blocking and asyncio."""

from unipinrec_client.client import AsyncClient, Client
from unipinrec_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    RecommendError,
    UnavailableError,
)
from unipinrec_client.exploration import exploration_record
from unipinrec_client.grpc_client import AsyncGrpcClient, GrpcClient
from unipinrec_client.http_client import AsyncHttpClient, HttpClient
from unipinrec_client.items import Item, ItemOutcome
from unipinrec_client.retry import RetryPolicy
from unipinrec_client.types import (
    AppendRequest,
    AppendResponse,
    Event,
    PolicyDecision,
    Recommendation,
    RecommendRequest,
    RecommendResponse,
)

__all__ = [
    "AppendRequest",
    "AppendResponse",
    "AsyncClient",
    "AsyncGrpcClient",
    "AsyncHttpClient",
    "Client",
    "DeadlineExceededError",
    "Event",
    "GrpcClient",
    "HttpClient",
    "InvalidRequestError",
    "Item",
    "ItemOutcome",
    "PolicyDecision",
    "RecommendError",
    "RecommendRequest",
    "RecommendResponse",
    "Recommendation",
    "RetryPolicy",
    "UnavailableError",
    "exploration_record",
]
