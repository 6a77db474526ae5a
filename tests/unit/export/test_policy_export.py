"""A bundle holds a policy that answers as eager PyTorch does, with the card that belongs to it, or none."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ensemble.loaded_bundle import LoadedBundle
from export.bundle_writer import NotServedError, write_bundle
from export.check import ExportMismatchError, refuse_if_different
from export.graph_files import write_graph
from export.policy_card import PolicyCardError, checked_card
from tests.conftest import Exported
from tests.support.policies import ALPHAS, PolicyExported, random_policy, with_policy
from unipinrec.bundle import BundleError, read_manifest
from unipinrec.data.history import History
from unipinrec.models.policy.card import CARD, PolicyCard
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.files import GRAPH
from unipinrec.models.policy.graphs import policy_exports, probe
from unipinrec.models.policy.module import PolicyGraph
from unipinrec.models.policy.state import policy_state, stack_states
from unipinrec.training.checkpoint import fingerprint, latest_checkpoint, load_state

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def with_one(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> PolicyExported:
    return with_policy(exported, tmp_path_factory.mktemp("with-policy"))


@pytest.fixture(scope="module")
def policy(with_one: PolicyExported) -> Path:
    """The policy's checkpoint."""
    found = latest_checkpoint(with_one.bundle.parents[1] / "checkpoints")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def unified(exported: Exported) -> Path:
    """The unified model's checkpoint."""
    found = latest_checkpoint(exported.bundle.parents[1] / "checkpoints")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def session(with_one: PolicyExported) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(with_one.bundle / "policy" / GRAPH)


@pytest.mark.parametrize("lengths", [[0], [1], [64], [0] * 16, [64] * 16, [0, 3, 64, 20, 1] * 5])
@pytest.mark.parametrize("arms", [1, 50])
def test_the_graph_answers_as_eager_does(
    session: onnxruntime.InferenceSession, with_one: PolicyExported, lengths: list[int], arms: int
) -> None:
    inputs = probe(with_one.model.config, lengths, arms, seed=40 + arms)
    names = [given.name for given in session.get_inputs()]
    (found_BKM,) = session.run(
        ["value"], {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    )
    with torch.inference_mode():
        expected_BKM = PolicyGraph(with_one.model).eval()(*inputs).numpy()
    assert found_BKM.shape == (len(lengths), arms, 2)
    assert found_BKM.dtype == np.float32
    np.testing.assert_allclose(found_BKM, expected_BKM, atol=TOLERANCE, rtol=0)


def test_its_inputs_are_what_the_state_makes_and_places(
    session: onnxruntime.InferenceSession, with_one: PolicyExported
) -> None:
    one = np.ones(1, np.int64)
    history = History(item_row_N=one, actions_N=one, timestamp_N=one, surface_N=one)
    config = with_one.model.config
    stacked = stack_states([policy_state(history, 9, 0, config)] * 2, config)
    assert [given.name for given in session.get_inputs()] == [*stacked, "arm_places"]
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}
    for given in session.get_inputs()[:-1]:
        array = stacked[given.name]
        assert types[given.type] == array.dtype
        assert len(given.shape) == array.ndim
        fixed = [size for size in given.shape if isinstance(size, int)]
        assert fixed == list(array.shape[len(given.shape) - len(fixed) :])
        assert given.shape[0] == "requests"


def test_the_same_policy_gives_the_same_file_and_another_is_refused(
    with_one: PolicyExported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = policy_exports(with_one.model).graphs[GRAPH]
    loaded = write_graph(tmp_path / GRAPH, graph)
    assert capfd.readouterr() == ("", "")
    content = (tmp_path / GRAPH).read_bytes()
    assert content == (with_one.bundle / "policy" / GRAPH).read_bytes()
    assert refuse_if_different(GRAPH, loaded, graph.module, graph.calls[1]) <= TOLERANCE
    altered = PolicyGraph(with_one.model).eval()
    altered.vector_VE[:] = altered.vector_VE.roll(1, 0)
    with pytest.raises(ExportMismatchError, match=r"^policy\.onnx differs from eager by "):
        refuse_if_different(GRAPH, loaded, altered, graph.calls[1])


def test_the_file_is_whole_and_tells_nothing_of_its_maker(with_one: PolicyExported) -> None:
    path = with_one.bundle / "policy" / GRAPH
    content = path.read_bytes()
    assert str(Path(__file__).parents[3]).encode() not in content
    assert b".py" not in content
    assert all(not tensor.external_data for tensor in onnx.load(path).graph.initializer)


def test_a_bundle_describes_the_policy_and_its_card(
    with_one: PolicyExported, exported: Exported, tmp_path: Path
) -> None:
    loaded = LoadedBundle.open(with_one.bundle)
    assert list(loaded.manifest.models) == ["unified", "policy"]
    assert loaded.manifest.models["policy"].files.keys() == {GRAPH, CARD}
    assert loaded.manifest.config_of("policy", PolicyConfig) == with_one.model.config
    card = PolicyCard.model_validate_json((with_one.bundle / "policy" / CARD).read_text())
    assert card == with_one.card
    assert card.chosen == ALPHAS
    assert "policy" not in read_manifest(exported.bundle).models
    altered = shutil.copytree(with_one.bundle, tmp_path / "altered")
    (altered / "policy" / CARD).write_text(card.model_dump_json() + " ")
    with pytest.raises(BundleError, match=r": policy/policy-card\.json has \d+ bytes; "):
        LoadedBundle.open(altered)


def test_a_policy_is_run_without_pytorch(with_one: PolicyExported) -> None:
    code = (
        "import sys, numpy as np, onnxruntime\n"
        "from unipinrec.bundle import read_manifest\n"
        "from unipinrec.data.history import History\n"
        "from unipinrec.models.policy.config import PolicyConfig\n"
        "from unipinrec.models.policy.state import policy_state, stack_states\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "config = read_manifest(folder).config_of('policy', PolicyConfig)\n"
        "none = np.zeros(0, np.int64)\n"
        "empty = History(item_row_N=none, actions_N=none, timestamp_N=none, surface_N=none)\n"
        "inputs = stack_states([policy_state(empty, 9, 0, config)], config)\n"
        "places = config.arms.places().astype(np.float32)\n"
        "session = onnxruntime.InferenceSession(folder / 'policy' / 'policy.onnx')\n"
        "(value,) = session.run(['value'], inputs | {'arm_places': places})\n"
        "print(value.shape, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(with_one.bundle)]
    root = Path(__file__).parents[3]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(1, 50, 2) False"


def written(card: PolicyCard, folder: Path, **changes: Any) -> Path:
    path = folder / "changed.json"
    path.write_text(json.dumps(json.loads(card.model_dump_json()) | changes))
    return path


@pytest.fixture
def export(exported: Exported, unified: Path, tmp_path: Path) -> Callable[..., Path]:
    def export(*policies: Path, card: Path | None) -> Path:
        return write_bundle(
            unified,
            exported.dataset,
            tmp_path / "bundles",
            beside=policies,
            policy_card=card,
            report=lambda _: None,
        )

    return export


def test_a_policy_and_its_card_come_together(
    export: Callable[..., Path], with_one: PolicyExported, policy: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        PolicyCardError, match=r"epoch-0001 holds a policy without a card; give --policy-card"
    ):
        export(policy, card=None)
    card = written(with_one.card, tmp_path)
    with pytest.raises(PolicyCardError, match=rf"^--policy-card is {card}, and no policy is exported;"):
        export(card=card)
    assert not (tmp_path / "bundles").exists()


def test_a_card_that_does_not_fit_is_refused(
    export: Callable[..., Path], with_one: PolicyExported, policy: Path, tmp_path: Path
) -> None:
    other = written(with_one.card, tmp_path, fingerprint="0" * 64)
    own = fingerprint(policy)[:12]
    message = rf"^--policy-card is of policy 000000000000; allowed: {own}, which {policy} holds$"
    with pytest.raises(PolicyCardError, match=message):
        export(policy, card=other)
    cohorts = written(with_one.card, tmp_path, cohorts=["core", "casual", "rest"])
    with pytest.raises(PolicyCardError, match=r"has other arms or cohorts than the policy$"):
        export(policy, card=cohorts)
    strange = written(with_one.card, tmp_path, fingerprint="none")
    with pytest.raises(
        PolicyCardError, match=r"which is no card: fingerprint is 'none'; String should match"
    ):
        export(policy, card=strange)
    assert not (tmp_path / "bundles").exists()


def test_a_policy_reads_no_more_events_than_serving_keeps(
    exported: Exported, with_one: PolicyExported, unified: Path, tmp_path: Path
) -> None:
    kept = exported.model.config.max_history - exported.model.config.window_block + 1
    for max_history in (kept, kept + 1):
        config = with_one.model.config.model_copy(update={"max_history": max_history})
        policy = random_policy(config, tmp_path / str(max_history), exported.dataset.info.sha256)
        card = written(with_one.card, tmp_path, fingerprint=fingerprint(policy))
        checkpoints = {"unified": unified, "policy": policy}
        states = {name: load_state(path) for name, path in checkpoints.items()}
        if max_history == kept:
            assert (
                checked_card(card, checkpoints, states, exported.dataset.info.utility_weights)
                == card.read_text()
            )
        else:
            message = rf"^max_history of the policy is {kept + 1}; allowed: 1 to {kept}, the events that "
            with pytest.raises(PolicyCardError, match=message):
                checked_card(card, checkpoints, states, exported.dataset.info.utility_weights)


def test_a_policy_alone_makes_no_bundle(
    exported: Exported, with_one: PolicyExported, policy: Path, tmp_path: Path
) -> None:
    card = written(with_one.card, tmp_path)
    message = r"holds the model policy, which has no item vectors; it may stand behind one that has$"
    with pytest.raises(NotServedError, match=message):
        write_bundle(policy, exported.dataset, tmp_path, policy_card=card, report=lambda _: None)
