"""What the tour prints: a user's recent history beside what is recommended."""

from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from unipinrec_client import RecommendResponse

from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.leave_one_out import Quality

RECENT = 10
TITLE_WIDTH = 24


def show_answer(
    console: Console, dataset: InteractionDataset, user: int, length: int, response: RecommendResponse
) -> None:
    """Print the last events before `length` beside the answer that both protocols gave."""
    console.print(Columns([_history(dataset, user, length), _answer(dataset, response)]))


def show_quality(console: Console, quality: Quality) -> None:
    """Print every recommender's metrics with their intervals."""
    metrics = list(next(iter(quality.values())))
    table = Table("recommender", *metrics, title="held-out quality, full catalogue (95 % interval)")
    for name, estimates in quality.items():
        cells = [f"{e.mean:.4f} ({e.low:.4f} to {e.high:.4f})" for e in estimates.values()]
        table.add_row(name, *cells)
    console.print(table)


def _history(dataset: InteractionDataset, user: int, length: int) -> Table:
    table = Table("item", "actions", title=f"user {dataset.user_ids_U[user]}: latest of {length} events")
    history = dataset.history(user)
    recent = slice(max(length - RECENT, 0), length)
    for row, actions in zip(history.item_row_N[recent], history.actions_N[recent], strict=True):
        names = [name for bit, name in enumerate(dataset.info.actions) if actions >> bit & 1]
        table.add_row(str(dataset.titles_V[row])[:TITLE_WIDTH], " ".join(names))
    return table


def _answer(dataset: InteractionDataset, response: RecommendResponse) -> Table:
    table = Table(
        "item", "score", *dataset.info.actions, title=f"recommended over gRPC and HTTP ({response.kv_source})"
    )
    for item in response.recommendations[:RECENT]:
        name = str(dataset.titles_V[dataset.rows_of([item.item_id])[0]])[:TITLE_WIDTH]
        table.add_row(name, f"{item.score:.3f}", *(f"{p:.2f}" for p in item.action_probabilities))
    return table
