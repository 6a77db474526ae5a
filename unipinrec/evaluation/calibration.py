"""Whether probabilities mean what they say: of those of one half, half come true.

Shapes: S impressions, B bins.
"""

from dataclasses import dataclass

import numpy as np

from unipinrec.arrays import AnyFloats, Bools, Float64s, Int64s
from unipinrec.evaluation.checks import check_at_least, check_numbers, check_shape

BINS = 20


@dataclass(frozen=True, slots=True)
class Calibration:
    """Impressions in bins of rising probability, as a reliability diagram shows them."""

    predicted_B: Float64s
    """Mean probability of each bin."""
    observed_B: Float64s
    """Share of each bin's impressions that got the action."""
    impressions_B: Int64s

    @property
    def error(self) -> float:
        """The expected calibration error: by how much the two differ, on average over impressions (Guo et
        al., On Calibration of Modern Neural Networks, arXiv 1706.04599, section 2)."""
        apart_B = np.abs(self.predicted_B - self.observed_B)
        return float(np.average(apart_B, weights=self.impressions_B))


def calibration(probability_S: AnyFloats, label_S: Bools, bins: int = BINS) -> Calibration:
    """Return bins of impressions in order of their probability, at most one for each.

    Bins are equally full, not equally wide: most actions are rare, and would all lie in the lowest bin.

    Raises `ValueError` if a probability is nan or not within 0 and 1, shapes differ, or there are no
    impressions.
    """
    check_numbers("probabilities", probability_S)
    check_shape("labels", label_S, probability_S.shape)
    check_at_least("impressions", len(probability_S), 1)
    if probability_S.min() < 0 or probability_S.max() > 1:
        least, most = float(probability_S.min()), float(probability_S.max())
        raise ValueError(f"probabilities are {least:g} to {most:g}; allowed: 0 to 1")
    order_S = np.argsort(probability_S, kind="stable")
    parts = np.array_split(order_S, min(bins, len(order_S)))
    return Calibration(
        np.array([probability_S[part].mean(dtype=np.float64) for part in parts]),
        np.array([label_S[part].mean(dtype=np.float64) for part in parts]),
        np.array([len(part) for part in parts], np.int64),
    )
