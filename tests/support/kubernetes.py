"""The manifests of docker/kubernetes, as kubectl renders them, and the schemas that they keep to."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

from ensemble.settings import ROOT
from tests.support.tools import tool

FOLDER = ROOT / "docker" / "kubernetes"
OVERLAYS = {path.name: path for path in sorted((FOLDER / "overlays").iterdir())}
KUBERNETES = "1.33"
"""The oldest release whose schemas the manifests are held against."""
OPERATORS = {"ScaledObject": ScaledObject, "PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}

Manifest = dict[str, Any]


@cache
def render(folder: Path) -> list[Manifest]:
    """The objects that `kubectl apply -k` of a folder would send."""
    kubectl = tool("kubectl", "kubernetes-client, newer than that of Debian 12")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A warning names what the next release of kustomize will not take.
    assert not done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def validate(manifest: Manifest) -> None:
    """Fails where an object has a value that its schema forbids, or a field that it does not know."""
    model = OPERATORS.get(manifest["kind"])
    if model is None:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    # The models drop fields that they do not know.
    read = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
    unknown = [*_lost(manifest, read)]
    assert not unknown, f"{manifest['kind']} has fields that its schema does not know: {unknown}"


def _lost(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """The fields of an object that are not in what a model has read of it."""
    if isinstance(given, dict):
        for name, value in given.items():
            if name not in read:
                yield f"{path}.{name}"
            else:
                yield from _lost(value, read[name], f"{path}.{name}")
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from _lost(value, read[index], f"{path}[{index}]")
    else:
        assert given == read, path


def only(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of a kind and a name."""
    (found,) = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod_specs(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The specification of each object's pods, by the object's name."""
    of_pods = [each for each in manifests if each["kind"] == "Pod"]
    made = [each for each in manifests if "template" in each.get("spec", {})]
    return {each["metadata"]["name"]: each["spec"] for each in of_pods} | {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in made
    }


def container(manifests: list[Manifest], name: str) -> Manifest:
    """The one container of an object's pods."""
    (found,) = pod_specs(manifests)[name]["containers"]
    return dict(found)


def environment(manifests: list[Manifest], name: str) -> dict[str, str]:
    """The values of a container's variables that are in the manifests, as the container gets them."""
    of = container(manifests, name)
    found: dict[str, str] = {}
    for source in of.get("envFrom", []):
        found |= only(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    namespace = only(manifests, "StatefulSet", "unipinrec")["metadata"]["namespace"]
    for variable in of.get("env", []):
        value = variable.get("value")
        if "fieldRef" in variable.get("valueFrom", {}):
            value = {"metadata.namespace": namespace}[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        if value is not None:
            for known, text in found.items():
                value = value.replace(f"$({known})", text)
            found[variable["name"]] = value
    return found
