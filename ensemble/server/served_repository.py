"""The model repository that Triton reads: written for one server, in its runtime folder.

Triton compares the times of files whenever it loads a model, those of an ensemble's nodes too, and starts
what has changed anew. So nobody else may write there, and neither may Python write its caches. A
configuration in a load request would do for a node, but is undone when an ensemble over it is loaded.
"""

import py_compile
import shutil
import time
from collections.abc import Set
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from ensemble.graph import read_config
from ensemble.server.node_set import NodeSet
from ensemble.settings import BUNDLE, NODE, RUNTIME_DIR

CONFIG = "config.pbtxt"


class ServedRepository:
    """Copies of the models of a repository, under names of their own."""

    def __init__(self, folder: Path, source: Path, profile: str | None) -> None:
        """Write to `folder` what `source` has; `profile` takes `configs/<profile>.pbtxt` of each model that
        has it."""
        self.folder = folder
        # What is written later has to fit what is loaded, whatever becomes of a checkout meanwhile.
        self.source = shutil.copytree(source, folder.with_name(f"{folder.name}-source"))
        self._profile = profile
        self._whole: dict[str, ModelConfig] = {}
        """What models have whose groups are left out for now."""

    def write_all(self, nodes: NodeSet) -> None:
        """Write all that a server starts with."""
        self.write_nodes(nodes)
        self.write_alone(nodes)
        for ensemble in nodes.selection.ensembles:
            self.write_ensemble(ensemble, ensemble, nodes)

    def write_nodes(self, nodes: NodeSet) -> None:
        """Let the nodes of a set read their bundle and runtime folder in their own configurations."""
        nodes.runtime_dir.mkdir(exist_ok=True)
        for node in nodes.selection.nodes:
            self._write_node(node, nodes.name_of(node), nodes)

    def write_alone(self, nodes: NodeSet) -> None:
        """Do so for the models that no ensemble has as a step, which are loaded once and keep their names."""
        for model in nodes.selection.alone:
            self._write_node(model, model, nodes)

    def write_ensemble(self, ensemble: str, name: str, nodes: NodeSet) -> None:
        """Let the ensemble `name` run the steps of another on the nodes of a set."""
        config = self._config_of(ensemble)
        for step in config.ensemble_scheduling.step:
            step.model_name = nodes.name_of(step.model_name)
        self._copy(ensemble, name)
        self._write(name, config)

    def leave_out(self, name: str, groups: Set[str]) -> bool:
        """Let a model do without these groups of instances, all of which end when it is loaded. Return
        whether others are left, without which nothing is written."""
        config = read_config(self.folder / name / CONFIG)
        self._whole.setdefault(name, config)
        rest = ModelConfig()
        rest.CopyFrom(config)
        del rest.instance_group[:]
        rest.instance_group.extend(group for group in config.instance_group if group.name not in groups)
        if rest.instance_group:
            self._write(name, rest)
        return bool(rest.instance_group)

    def renew(self, name: str, groups: Set[str]) -> None:
        """Let a model have these groups of instances again, which Triton starts anew when it is loaded."""
        config = self._whole.pop(name, None) or read_config(self.folder / name / CONFIG)
        for group in config.instance_group:
            if group.name in groups:
                # A policy that nobody defines changes nothing but that the groups differ.
                group.host_policy = f"started-{time.time_ns()}"
        self._write(name, config)

    def remove(self, name: str) -> None:
        """Remove a model that is not loaded."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _write_node(self, node: str, name: str, nodes: NodeSet) -> None:
        config = self._config_of(node)
        config.parameters[BUNDLE].string_value = str(nodes.bundle)
        config.parameters[RUNTIME_DIR].string_value = str(nodes.runtime_dir)
        config.parameters[NODE].string_value = node
        self._copy(node, name)
        self._whole.pop(name, None)
        self._write(name, config)

    def _config_of(self, model: str) -> ModelConfig:
        chosen = self.source / model / "configs" / f"{self._profile}.pbtxt"
        return read_config(chosen if chosen.is_file() else self.source / model / CONFIG)

    def _copy(self, model: str, name: str) -> None:
        folder = self.folder / name
        if folder.exists():
            return
        left_out = shutil.ignore_patterns("__pycache__", "configs", CONFIG)
        shutil.copytree(self.source / model, folder, ignore=left_out)
        # An ensemble's folder is empty in a checkout, and Triton wants it.
        (folder / "1").mkdir(exist_ok=True)
        for path in folder.rglob("*.py"):
            py_compile.compile(str(path), quiet=2)

    def _write(self, name: str, config: ModelConfig) -> None:
        config.name = name
        if not config.instance_group and config.platform != "ensemble":
            config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=1)
        for number, group in enumerate(config.instance_group):
            group.name = group.name or f"{name}_{number}"
        draft = self.folder / name / f".{CONFIG}"
        draft.write_text(text_format.MessageToString(config))
        draft.replace(self.folder / name / CONFIG)
