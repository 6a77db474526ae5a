"""What the page shows of an answer, as HTML. Every text that is not its own is escaped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from unipinrec_client import Event, PolicyDecision, Recommendation
from unipinrec_client.catalogue import Catalogue

from explorer.servers import Answer

STYLE = Path(__file__).with_name("style.css")

COLOURS = ("#2563eb", "#0d9488", "#d97706", "#dc2626", "#7c3aed", "#db2777", "#4d7c0f", "#0891b2")
"""Of actions and of stages, in turn."""

KV_SOURCES = {
    "prefill": "history encoded for this request",
    "prefix": "continued from an earlier request",
    "recomputed": "encoded twice: its slot was gone",
}
WEIGHT_SOURCES = {
    "given": "weights of the sliders",
    "explored": "weights drawn at random",
    "chosen": "weights chosen by the policy",
    "default": "weights of the bundle",
}


def pills(texts: Sequence[str]) -> str:
    """Return texts as a row of pills."""
    return "".join(f'<span class="ex-pill">{escape(text)}</span>' for text in texts)


def heading(text: str) -> str:
    """Return the heading of a column."""
    return f'<div class="ex-head">{escape(text)}</div>'


def history(events: Sequence[Event], catalogue: Catalogue) -> str:
    """Return events, the latest first, with what was done and when."""
    return "".join(_event(event, catalogue) for event in reversed(events))


def recommendation(rank: int, item: Recommendation, catalogue: Catalogue, notes: Sequence[str]) -> str:
    """Return one recommended item with notes, and a bar for the probability of each action."""
    names = catalogue.action_names(len(item.action_probabilities))
    bars = zip(names, item.action_probabilities, strict=True)
    first = item.first_action_probabilities
    before = [f"first ranker {', '.join(f'{p:.1%}' for p in first)}"] if first else []
    told = " · ".join([f"item {item.item_id}", *notes, *before])
    return (
        f'<div class="ex-card" data-item="{item.item_id}"><div class="ex-rank">{rank}</div>'
        f'<div class="ex-about"><div class="ex-name">{escape(_title(item.item_id, catalogue))}</div>'
        f'<div class="ex-by">{escape(told)}</div></div>'
        f'<div class="ex-score">{item.score:.3f}<small>score</small></div>'
        f'<div class="ex-bars">{"".join(_bar(number, *bar) for number, bar in enumerate(bars))}</div></div>'
    )


def facts(answer: Answer) -> list[str]:
    """Return how an answer came about, each in a few words."""
    response = answer.response
    return [
        f"bundle {response.bundle_id}",
        f"KV {response.kv_source}: {KV_SOURCES.get(response.kv_source, 'unknown')}",
        WEIGHT_SOURCES.get(response.utility_source, response.utility_source),
        f"{answer.total_ms:.1f} ms in all",
    ]


def stages(answer: Answer) -> str:
    """Return the time at each stage as one bar with a legend."""
    total_ms = sum(time.queue_ms + time.compute_ms for time in answer.stages.values()) or 1.0
    parts, legend = [], []
    for number, (stage, time) in enumerate(answer.stages.items()):
        spent_ms, colour = time.queue_ms + time.compute_ms, COLOURS[number % len(COLOURS)]
        parts.append(f'<span style="width: {100 * spent_ms / total_ms:.2f}%; background: {colour}"></span>')
        legend.append(
            f'<span class="ex-stage"><i style="background: {colour}"></i>'
            f"{escape(stage)} {spent_ms:.1f} ms</span>"
        )
    return f'<div class="ex-stages">{"".join(parts)}</div><div class="ex-legend">{"".join(legend)}</div>'


def told_policy(decision: PolicyDecision) -> str:
    """Return what a policy did for an answer, in a sentence."""
    if decision.fallback:
        return f"The policy's weights were not used ({decision.fallback}); the bundle's stand in for them."
    if decision.explored:
        return f"Arm {decision.arm} of the policy's weights was drawn at random."
    alpha = "untold" if decision.alpha is None else f"{decision.alpha:.3g}"
    return (
        f"Alpha {alpha} of cohort {decision.cohort}, in revision {decision.revision} of the operating "
        f"points: policy {decision.policy} chose arm {decision.arm}."
    )


def _event(event: Event, catalogue: Catalogue) -> str:
    names = catalogue.action_names(max(len(catalogue.actions), event.actions.bit_length()))
    done = [name for bit, name in enumerate(names) if event.actions >> bit & 1]
    when = datetime.fromtimestamp(event.timestamp, UTC).strftime("%Y-%m-%d")
    return (
        f'<div class="ex-event"><div>{escape(_title(event.item_id, catalogue))}<br>'
        f'{pills(done or ["shown"])}</div><div class="when">{when}</div></div>'
    )


def _bar(number: int, name: str, probability: float) -> str:
    fill = f'style="width: {100 * probability:.1f}%; background: {COLOURS[number % len(COLOURS)]}"'
    return (
        f'<div class="ex-bar"><span class="name">{escape(name)}</span>'
        f'<span class="track"><span class="fill" {fill}></span></span>'
        f'<span class="told">{probability:.1%}</span></div>'
    )


def _title(item_id: int, catalogue: Catalogue) -> str:
    return catalogue.title(item_id) or f"item {item_id}"
