"""The comparison of policies: its measures on numbers worked out by hand, and a small run to the page."""

from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from experiments.policy.flat import flat_states
from experiments.policy.judging import POLICY, SAME_WEIGHTS, STATICS
from experiments.policy.learned import HIDDEN, WHOLE
from experiments.policy.measures import Means, arms_at, pearson, totals
from experiments.policy.page import over_seeds, write_page
from experiments.policy.report import PolicyStudyReport
from experiments.policy.study import PolicyStudy
from experiments.policy.world import PolicyWorld, WorldConfig, held_out
from unipinrec.models.policy.config import PolicyConfig, PolicyTraining

ALPHAS_3 = np.array([0.0, 0.5, 1.0])

# Two requests, three arms: arm 0 has the first reward, arm 2 the second, arm 1 some of both.
EXPECTED_RKM = np.array(
    [[[0.8, 0.0], [0.6, 0.6], [0.0, 0.8]], [[0.4, 0.0], [0.2, 0.1], [0.0, 0.4]]], np.float32
)


def test_an_alpha_takes_the_arm_with_the_best_weighed_reward() -> None:
    np.testing.assert_array_equal(arms_at(EXPECTED_RKM, ALPHAS_3), [[0, 0], [1, 0], [2, 2]])


@pytest.fixture
def means() -> Means:
    families = {
        "oracle": arms_at(EXPECTED_RKM, ALPHAS_3),
        "middle": np.full((3, 2), 1),
        "statics": np.array([[0, 0], [1, 1]]),
    }
    return totals(EXPECTED_RKM, families, ALPHAS_3, np.array([0, 1]), {}).means()


def test_rewards_are_means_over_requests(means: Means) -> None:
    np.testing.assert_allclose(means.family_XM["oracle"], [[0.6, 0.0], [0.5, 0.3], [0.0, 0.6]], atol=1e-7)


def test_regret_is_what_the_best_arm_of_each_request_has_more(means: Means) -> None:
    regrets = means.regrets(ALPHAS_3)
    np.testing.assert_allclose(regrets["oracle"], 0.0, atol=1e-7)
    np.testing.assert_allclose(regrets["middle"], [0.6 - 0.4, 0.4 - 0.375, 0.6 - 0.35], atol=1e-7)


def test_statics_are_judged_by_the_best_of_them_at_each_alpha(means: Means) -> None:
    np.testing.assert_allclose(means.regrets(ALPHAS_3)["statics"], [0.0, 0.025, 0.25], atol=1e-7)


def test_hypervolume_is_the_area_above_the_reference(means: Means) -> None:
    volumes = means.hypervolumes(np.array([0.1, 0.1]))
    assert volumes["oracle"] == pytest.approx(0.4 * 0.2)
    assert volumes["middle"] == pytest.approx(0.3 * 0.25)


def test_users_count_as_often_as_they_are_drawn() -> None:
    found = totals(EXPECTED_RKM, {"middle": np.full((3, 2), 1)}, ALPHAS_3, np.array([0, 1]), {})
    np.testing.assert_allclose(found.means(np.array([0.0, 2.0])).family_XM["middle"][0], [0.2, 0.1])


def test_correlation_of_known_series() -> None:
    assert pearson(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])) == pytest.approx(1.0)
    assert pearson(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 1.0])) == pytest.approx(0.5)


def test_three_worlds_have_the_interval_of_students_t() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    # Of a table: 4.3027 with two degrees of freedom.
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)


def test_a_share_of_users_is_held_out_and_always_the_same() -> None:
    chosen = [held_out(f"u{number:07d}", 0.15) for number in range(4_000)]
    assert np.mean(chosen) == pytest.approx(0.15, abs=0.02)
    assert chosen == [held_out(f"u{number:07d}", 0.15) for number in range(4_000)]


def test_flat_states_tell_the_session_and_the_latest_events_apart(
    study: PolicyStudy,
    report: PolicyStudyReport,  # Its world is read here.
) -> None:
    assert report.quick
    with Progress(disable=True) as progress:
        world = PolicyWorld.prepare(study.folder / "seed-3", study.world, 3, progress)
    events, log = world.interactions, world.states
    flat_SX = flat_states(events, log, PolicyConfig(**events.catalogue_fields, arms=world.arms))
    checked = 0
    for row, (user_id, second) in enumerate(zip(log.user_id_R, log.timestamp_R, strict=True)):
        history = events.history(int(np.flatnonzero(events.user_ids_U == user_id)[0]))
        content_NF = events.content_VF[history.item_row_N[history.timestamp_N < second]]
        recent_N = history.timestamp_N[history.timestamp_N < second] >= second - 3_600
        if 0 < recent_N.sum() < 8 < len(content_NF):
            latest_F, session_F = np.split(flat_SX[row, -2 * content_NF.shape[1] :], 2)
            np.testing.assert_allclose(latest_F, content_NF[-8:].mean(axis=0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(session_F, content_NF[recent_N].mean(axis=0), rtol=1e-4, atol=1e-5)
            checked += 1
    assert checked > 10


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> PolicyStudy:
    return PolicyStudy(
        world=WorldConfig(users=120, items=450, held_out_share=0.5, evaluation_traffic=4),
        training=PolicyTraining(epochs=1, batch_size=256),
        seeds=(3,),
        partial_seeds=(3,),
        folder=tmp_path_factory.mktemp("study"),
        oracles=Path("no/such/python"),
        quick=True,
    )


@pytest.fixture(scope="module")
def report(study: PolicyStudy) -> PolicyStudyReport:
    return study.run(1, lambda _: None)


def test_learners_without_their_libraries_are_left_out_loudly(
    report: PolicyStudyReport, tmp_path: Path
) -> None:
    assert "Vowpal Wabbit" in report.skipped[0]
    write_page(report, tmp_path / "page.md", tmp_path / "pictures")
    assert "**Left out:** Vowpal Wabbit" in (tmp_path / "page.md").read_text()


def test_nobody_beats_the_oracle_and_statics_are_their_own_measure(report: PolicyStudyReport) -> None:
    (seed,) = report.seeds
    assert [family.name for family in seed.families] == [POLICY, STATICS, SAME_WEIGHTS]
    assert all(family.regret > 0 and 0 < family.hypervolume < 1 for family in seed.families)
    assert seed.family(STATICS).regret_over_static == pytest.approx(1.0)


def test_parts_of_the_state_are_hidden_from_variants(report: PolicyStudyReport) -> None:
    (seed,) = report.seeds
    found = {family.name: family for family in seed.partial}
    assert list(found) == list(HIDDEN)
    assert found[WHOLE].points == seed.family(POLICY).points
    assert len({family.points for family in found.values()}) == len(HIDDEN)


def test_a_finished_world_is_read_again(study: PolicyStudy, report: PolicyStudyReport) -> None:
    again = study.run(1, lambda _: None)
    assert again.seeds == report.seeds
    assert again.minutes is None
