"""Expected calibration error, against scikit-learn's bins and by what is known of probabilities."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from unipinrec.evaluation.calibration import calibration


def test_bins_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    probability_S = draw.random(10_000)
    label_S = draw.random(10_000) < probability_S**2
    found = calibration(probability_S, label_S, bins=10)
    observed_B, predicted_B = calibration_curve(label_S, probability_S, n_bins=10, strategy="quantile")
    assert found.predicted_B == pytest.approx(predicted_B, abs=1e-3)
    assert found.observed_B == pytest.approx(observed_B, abs=2e-3)
    assert found.impressions_B.tolist() == [1_000] * 10


def test_the_error_is_what_probabilities_are_off_by() -> None:
    draw = np.random.default_rng(1)
    probability_S = 0.8 * draw.random(200_000)
    label_S = draw.random(200_000) < probability_S
    assert calibration(probability_S, label_S).error < 0.005
    assert calibration(probability_S + 0.1, label_S).error == pytest.approx(0.1, abs=0.005)
    # Right on average, and wrong everywhere.
    assert calibration(np.full(200_000, 0.4), label_S, bins=1).error < 0.005
    assert calibration(0.8 - probability_S, label_S).error > 0.3


def test_few_impressions_have_few_bins() -> None:
    assert calibration(np.array([0.1, 0.9]), np.array([False, True])).error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        ([0.5, 1.5], "probabilities are 0.5 to 1.5; allowed: 0 to 1"),
        ([-0.5, 0.5], "probabilities are -0.5 to 0.5; allowed: 0 to 1"),
        ([0.5, float("nan")], "probabilities"),
        ([0.5], "labels"),
        ([], "labels"),
    ],
)
def test_what_is_no_probability_is_refused(probability: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        calibration(np.array(probability), np.array([True, False]))
