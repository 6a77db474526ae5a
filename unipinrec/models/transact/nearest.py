"""Which rows of the long sequences each candidate gets: the nearest ones, as TransAct V2 joins them.

Shapes: R requests, C candidates, V items, E width of the search vectors, K nearest rows of a candidate.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from unipinrec.models.transact.batch import NearestRows, PackedEvents, RequestBatch
from unipinrec.models.transact.config import TransactV2Config
from unipinrec.models.transact.search import Nearest, nearest, spans

Search = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Nearest]
"""What `search.nearest` returns for the same arguments; the last is the longest span of a request with
candidates."""


def parts_of(offset_R1: Tensor, config: TransactV2Config) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the lifelong events of each request begin and end, [R, 2], where the realtime ones before
    the latest do, and where the latest do."""
    begin_R, end_R = offset_R1[:-1], offset_R1[1:]
    realtime_R = torch.maximum(begin_R, end_R - config.realtime_events)
    latest_R = torch.maximum(begin_R, end_R - config.latest_events)
    bounds = (begin_R, realtime_R, latest_R, end_R)
    older_R2, rest_R2, last_R2 = (torch.stack(pair, dim=1) for pair in pairwise(bounds))
    return older_R2, rest_R2, last_R2


def latest(rows: PackedEvents, most: int) -> PackedEvents:
    """Return the latest rows of each request."""
    kept_R = rows.lengths.clamp(max=most)
    offset_R1 = nn.functional.pad(kept_R.cumsum(0), (1, 0))
    left_out_N = torch.repeat_interleave(rows.offset_R1[1:] - offset_R1[1:], kept_R)
    place_N = torch.arange(len(left_out_N), device=kept_R.device) + left_out_N
    columns = ("item_row_N", "actions_N", "surface_N", "timestamp_N")
    return PackedEvents(**{name: getattr(rows, name)[place_N] for name in columns}, offset_R1=offset_R1)


def nearest_rows(
    requests: RequestBatch, vector_VE: Tensor, config: TransactV2Config, search: Search | None = None
) -> NearestRows:
    """Return the rows nearest to each candidate by int8 vectors of the catalogue, in order of time.

    `search` takes the place of `search.nearest`.
    """
    events, shown = requests.events, requests.impressions
    older_R2, rest_R2, _ = parts_of(events.offset_R1, config)
    candidate_CE = vector_VE[requests.candidate_item_C]

    def found(rows: PackedEvents, span_R2: Tensor, count: int, longest: int) -> tuple[Tensor, Tensor]:
        if count == 0:
            return candidate_CE.new_zeros(
                len(candidate_CE), 0, dtype=torch.long
            ), requests.request_of_candidate * 0
        given = (vector_VE, rows.item_row_N, span_R2, candidate_CE, requests.candidate_offset_R1, count)
        row_CK, count_C = nearest(*given) if search is None else search(*given, longest)
        unused_CK = torch.arange(count, device=row_CK.device) >= count_C.unsqueeze(1)
        in_time_CK = row_CK.masked_fill(unused_CK, len(rows.item_row_N)).sort(dim=1).values
        return in_time_CK.masked_fill(unused_CK, 0), count_C

    older_CK, older_count_C = found(events, older_R2, config.lifelong_nearest, config.max_events)
    rest = config.realtime_events - config.latest_events
    realtime_CK, realtime_count_C = found(events, rest_R2, config.realtime_nearest, rest)
    impression_CK, impression_count_C = found(
        shown, spans(shown.offset_R1), config.impressions_nearest, config.max_impressions
    )
    return NearestRows(
        older_CK=older_CK,
        older_count_C=older_count_C,
        realtime_CK=realtime_CK,
        realtime_count_C=realtime_count_C,
        impression_CK=impression_CK,
        impression_count_C=impression_count_C,
    )
