"""The manifests keep to the API's schemas, and say the same as the compose file and the code."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from containers.compose import read_service, seconds, size
from containers.proxy import CONFIGURATION
from ensemble.server.health import Health
from ensemble.settings import ENV_PREFIX, ROOT, SECRETS, SHARED_MEMORY, ServingSettings
from tests.support.kubernetes import (
    FOLDER,
    OVERLAYS,
    Manifest,
    container,
    environment,
    only,
    pod_specs,
    render,
    validate,
)
from tests.support.tools import tool

DOCKER = ROOT / "docker"
SERVER, PROXY = "unipinrec", "unipinrec-proxy"
MOST_REPLICAS = 8
LONGEST_DNS_CACHE_S = 30
"""What cluster DNS keeps an answer at most, as kubeadm sets it up."""
SCRIPTS = [DOCKER / name for name in ("entrypoint.sh", "healthcheck.sh")]
COMPOSE_SERVICE = {"cpu": "server", "gpu": "server-gpu", "scale": "replica-1", "autoscaled": "replica-1"}
WITH_PROXY = ["scale", "autoscaled"]
FOLDERS = {**OVERLAYS, "loader": FOLDER / "loader"}

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def rendered(overlay: str) -> list[Manifest]:
    return render(FOLDERS[overlay])


def test_there_is_an_overlay_for_each_profile_that_serves() -> None:
    assert OVERLAYS.keys() == COMPOSE_SERVICE.keys()


def test_the_manifests_pass_yamllint() -> None:
    yamllint = Path(sys.executable).parent / "yamllint"
    # Made from alerts.yml, whose summaries take what they take.
    written = [path for path in FOLDER.rglob("*.yaml") if path.name != "rules.yaml"]
    done = subprocess.run([yamllint, "--strict", *written], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_keeps_to_its_schema(folder: str) -> None:
    for manifest in rendered(folder):
        validate(manifest)
        assert manifest["metadata"]["namespace"] == "unipinrec"


@pytest.mark.parametrize(
    ("folder", "kind", "path"),
    [
        ("cpu", "StatefulSet", ("spec", "replica")),
        ("cpu", "NetworkPolicy", ("spec", "podselector")),
        ("autoscaled", "ScaledObject", ("spec", "maxReplicas")),
        ("autoscaled", "PodMonitor", ("spec", "podMetricsEndpoint")),
    ],
)
def test_a_misspelt_field_is_not_valid(folder: str, kind: str, path: tuple[str, str]) -> None:
    manifest = next(each for each in rendered(folder) if each["kind"] == kind)
    outer, inner = path
    with pytest.raises(Exception, match=inner):
        validate({**manifest, outer: {**manifest[outer], inner: 1}})


@pytest.mark.parametrize(
    ("overlay", "replicas"), [("cpu", 1), ("gpu", 1), ("scale", 3), ("autoscaled", None)]
)
def test_as_many_servers_are_asked_for(overlay: str, replicas: int | None) -> None:
    # Where KEDA decides, a number here would reset its own at each apply.
    assert only(rendered(overlay), "StatefulSet", SERVER)["spec"].get("replicas") == replicas


def test_the_overlay_of_the_manual_does_what_it_says(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)
    folder = tmp_path / "deploy"
    folder.mkdir()
    (tmp_path / "docker").mkdir()
    shutil.copytree(FOLDER, tmp_path / "docker/kubernetes")
    shutil.copytree(DOCKER / "proxy", tmp_path / "docker/proxy")
    (folder / "kustomization.yaml").write_text(text)
    manifests = render(folder)
    for manifest in manifests:
        validate(manifest)
    assert container(manifests, SERVER)["image"] == "registry.example.com/unipinrec:cpu-1"
    assert environment(manifests, SERVER)["UNIPINREC_POOL_SLOTS"] == "128"
    assert environment(manifests, SERVER)["UNIPINREC_BUNDLE"] == "/bundles/current"
    claim = only(manifests, "PersistentVolumeClaim", "unipinrec-bundles")
    assert claim["spec"]["storageClassName"] == "shared-files"


def test_a_gpu_is_asked_for_by_its_overlay_alone() -> None:
    gpus = {
        overlay: container(rendered(overlay), SERVER)["resources"]["limits"].get("nvidia.com/gpu")
        for overlay in OVERLAYS
    }
    assert gpus == {"cpu": None, "gpu": "1", "scale": None, "autoscaled": None}


@every_overlay
def test_servers_are_those_of_the_compose_file(overlay: str) -> None:
    service: dict[str, Any] = dict(read_service(COMPOSE_SERVICE[overlay], {}))
    server = container(rendered(overlay), SERVER)
    assert server["image"] == service["image"]
    assert "command" not in server
    assert "args" not in server
    for probe in (server["startupProbe"], server["readinessProbe"]):
        assert ["CMD", *probe["exec"]["command"]] == service["healthcheck"]["test"]
        assert probe["periodSeconds"] == seconds(service["healthcheck"]["interval"])
        assert probe["timeoutSeconds"] == seconds(service["healthcheck"]["timeout"])
    starting = server["startupProbe"]
    assert starting["failureThreshold"] * starting["periodSeconds"] >= seconds(
        service["healthcheck"]["start_period"]
    )
    limits, promised = server["resources"]["limits"], service["deploy"]["resources"]["limits"]
    assert limits["cpu"] == str(promised["cpus"])
    assert size(limits["memory"].removesuffix("i")) == size(promised["memory"])


@every_overlay
def test_servers_have_the_compose_files_paths_and_no_other(overlay: str) -> None:
    service: dict[str, Any] = dict(read_service(COMPOSE_SERVICE[overlay], {}))
    binds = [volume for volume in service["volumes"] if isinstance(volume, dict)]
    named = [volume.split(":")[1] for volume in service["volumes"] if isinstance(volume, str)]
    of_memory = {entry.split(":")[0]: entry for entry in service["tmpfs"]}
    manifests = rendered(overlay)
    mounts = {mount["mountPath"]: mount for mount in container(manifests, SERVER)["volumeMounts"]}
    assert mounts.keys() == {*(bind["target"] for bind in binds), *named, *of_memory, str(SHARED_MEMORY)}
    assert [path for path, mount in mounts.items() if mount.get("readOnly")] == [
        bind["target"] for bind in binds if bind["read_only"]
    ]
    volumes = {volume["name"]: volume for volume in pod_specs(manifests)[SERVER]["volumes"]}
    assert volumes["bundles"]["persistentVolumeClaim"]["readOnly"]
    shared = volumes[mounts[str(SHARED_MEMORY)]["name"]]["emptyDir"]
    assert shared["medium"] == "Memory"
    assert size(shared["sizeLimit"].removesuffix("i")) == size(service["shm_size"])
    kept = {claim["metadata"]["name"] for claim in claims(manifests)}
    assert kept == {mounts[path]["name"] for path in named}


def claims(manifests: list[Manifest]) -> list[Manifest]:
    return list(only(manifests, "StatefulSet", SERVER)["spec"]["volumeClaimTemplates"])


@every_overlay
def test_every_variable_is_a_setting_and_agrees_with_the_compose_file(overlay: str) -> None:
    read_by_scripts = {
        name for script in SCRIPTS for name in re.findall(r"\$\{(UNIPINREC_\w+)", script.read_text())
    }
    settings = {f"{ENV_PREFIX}{name.upper()}" for name in ServingSettings.model_fields}
    manifests = rendered(overlay)
    given = environment(manifests, SERVER)
    names = given.keys() | {variable["name"] for variable in container(manifests, SERVER)["env"]}
    assert names <= settings | read_by_scripts
    compose = dict(read_service(COMPOSE_SERVICE[overlay], {})["environment"])
    image = (DOCKER / f"Dockerfile.{'gpu' if overlay == 'gpu' else 'cpu'}").read_text()
    for name, value in given.items():
        assert compose.get(name) == value or f"{name}={value}" in image, name
    fixed = {name for name, value in compose.items() if value}
    assert fixed <= given.keys()


@every_overlay
def test_secrets_come_by_reference_alone(overlay: str) -> None:
    manifests = rendered(overlay)
    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    variables = {variable["name"]: variable for variable in container(manifests, SERVER)["env"]}
    # The launcher draws the other one.
    for name in {*SECRETS} - {"seal_key"}:
        assert "secretKeyRef" in variables[f"{ENV_PREFIX}{name.upper()}"]["valueFrom"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_is_confined_as_the_restricted_standard_has_it(folder: str) -> None:
    for name, pod in pod_specs(rendered(folder)).items():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert not {"hostPID", "hostIPC", "hostNetwork"} & pod.keys(), name
        allowed = {"persistentVolumeClaim", "emptyDir", "configMap", "secret"}
        assert all(volume.keys() - {"name"} <= allowed for volume in pod["volumes"]), name
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= each["resources"]["limits"].keys(), name
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), name


def test_servers_run_as_the_user_of_the_images() -> None:
    for overlay in OVERLAYS:
        context = pod_specs(rendered(overlay))[SERVER]["securityContext"]
        user = f"{context['runAsUser']}:{context['runAsGroup']}"
        assert all(f"USER {user}\n" in path.read_text() for path in DOCKER.glob("Dockerfile.*"))
        assert context["fsGroup"] == context["runAsGroup"]


@every_overlay
def test_a_stop_has_the_time_that_the_launcher_takes(overlay: str) -> None:
    manifests = rendered(overlay)
    (_, waits) = container(manifests, SERVER)["lifecycle"]["preStop"]["exec"]["command"]
    (held,) = re.findall(r"hold nx (\d+)s", CONFIGURATION.read_text())
    assert int(waits) > LONGEST_DNS_CACHE_S + int(held)
    drains = int(environment(manifests, SERVER)["UNIPINREC_EXIT_TIMEOUT_S"])
    grace = pod_specs(manifests)[SERVER]["terminationGracePeriodSeconds"]
    assert grace >= int(waits) + drains + 10


@every_overlay
def test_ports_are_those_that_the_server_listens_on(overlay: str) -> None:
    manifests = rendered(overlay)
    defaults = dict(re.findall(r"\$\{UNIPINREC_(\w+)_PORT:-(\d+)\}", SCRIPTS[0].read_text()))
    listens = {name.lower(): int(port) for name, port in defaults.items()}
    server = container(manifests, SERVER)
    assert {port["name"]: port["containerPort"] for port in server["ports"]} == listens
    for service in (SERVER, "unipinrec-replicas"):
        ports = only(manifests, "Service", service)["spec"]["ports"]
        assert {port["targetPort"]: port["port"] for port in ports} == {
            name: listens[name] for name in ("http", "grpc")
        }
    # Metrics and health are for Prometheus alone.
    (rule,) = only(manifests, "NetworkPolicy", SERVER)["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [listens["http"], listens["grpc"]]


@every_overlay
def test_the_liveness_probe_asks_what_the_launcher_answers(overlay: str) -> None:
    probe = container(rendered(overlay), SERVER)["livenessProbe"]["httpGet"]
    assert probe["port"] == "health"
    statuses: list[str] = []
    body = Health().respond(
        {"PATH_INFO": probe["path"], "REQUEST_METHOD": "GET"}, lambda status, _: statuses.append(status)
    )
    assert statuses == ["200 OK"]
    assert b"alive" in b"".join(body)


@every_overlay
def test_what_runs_may_be_disturbed_one_at_a_time(overlay: str) -> None:
    manifests = rendered(overlay)
    for name in pod_specs(manifests):
        budget = only(manifests, "PodDisruptionBudget", name)["spec"]
        kind = "StatefulSet" if name == SERVER else "Deployment"
        assert budget["selector"] == only(manifests, kind, name)["spec"]["selector"]
        assert budget["maxUnavailable"] == 1


@pytest.mark.parametrize("overlay", WITH_PROXY)
def test_the_proxy_is_the_compose_files(overlay: str) -> None:
    service: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["proxy"]
    manifests = rendered(overlay)
    proxy = container(manifests, PROXY)
    assert proxy["image"] == service["image"]
    volumes = {volume["name"]: volume for volume in pod_specs(manifests)[PROXY]["volumes"]}
    name = volumes["configuration"]["configMap"]["name"]
    assert only(manifests, "ConfigMap", name)["data"] == {"haproxy.cfg": CONFIGURATION.read_text()}
    mounted = {mount["mountPath"] for mount in proxy["volumeMounts"]}
    targets = {Path(volume["target"]) for volume in service["volumes"]}
    assert {str(path.parent) if path.suffix else str(path) for path in targets} == mounted
    published = {int(port.split(":")[-1]) for port in service["ports"]}
    assert {port["containerPort"] for port in proxy["ports"]} == published
    soft_stop = re.findall(r"hard-stop-after (\d+)s", CONFIGURATION.read_text())
    (_, waits) = proxy["lifecycle"]["preStop"]["exec"]["command"]
    grace = pod_specs(manifests)[PROXY]["terminationGracePeriodSeconds"]
    assert grace >= int(waits) + int(soft_stop[0])


@pytest.mark.parametrize("overlay", WITH_PROXY)
def test_the_proxy_knows_every_replica_by_its_name(overlay: str) -> None:
    manifests = rendered(overlay)
    given = environment(manifests, PROXY)
    spec = only(manifests, "StatefulSet", SERVER)["spec"]
    ports = {
        port["name"]: port["port"]
        for port in only(manifests, "Service", spec["serviceName"])["spec"]["ports"]
    }
    expected = {
        f"UNIPINREC_REPLICA_{number}_{protocol.upper()}": (
            f"{SERVER}-{number - 1}.{spec['serviceName']}.unipinrec.svc.cluster.local:{ports[protocol]}"
        )
        for number in range(1, MOST_REPLICAS + 1)
        for protocol in ("http", "grpc")
    }
    assert {name: value for name, value in given.items() if "REPLICA_" in name} == expected
    text = CONFIGURATION.read_text()
    assert all(f'"${{{name}}}"' in text for name in expected)


def test_no_more_replicas_are_started_than_the_proxy_knows() -> None:
    spec = only(rendered("autoscaled"), "ScaledObject", SERVER)["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (3, MOST_REPLICAS)
    target = only(rendered("autoscaled"), spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
    assert target["apiVersion"] == spec["scaleTargetRef"]["apiVersion"]


def test_haproxy_accepts_its_configuration_with_the_pods_environment(tmp_path: Path) -> None:
    haproxy, openssl = tool("haproxy"), tool("openssl")
    manifests = rendered("scale")
    (secret,) = [
        volume["secret"] for volume in pod_specs(manifests)[PROXY]["volumes"] if volume["name"] == "tls"
    ]
    paths = {item["key"]: tmp_path / item["path"] for item in secret["items"]}
    made = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"]
    files = ["-keyout", paths["tls.key"], "-out", paths["tls.crt"]]
    subprocess.run([openssl, *made, *files], check=True, capture_output=True)
    (tmp_path / "keys").write_text("")
    done = subprocess.run(
        [haproxy, "-c", "-f", CONFIGURATION],
        env={
            **environment(manifests, PROXY),
            # Where the pod has the files of the secrets.
            "UNIPINREC_PROXY_CERTIFICATE": str(tmp_path / "server.pem"),
            "UNIPINREC_PROXY_KEYS": str(tmp_path / "keys"),
            "UNIPINREC_PROXY_ADMIN_KEYS": str(tmp_path / "keys"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'server http/replica-8'" in done.stderr


@pytest.mark.parametrize("overlay", WITH_PROXY)
def test_network_policies_let_the_proxy_reach_servers_and_nobody_else(overlay: str) -> None:
    manifests = rendered(overlay)
    labels = only(manifests, "Deployment", PROXY)["spec"]["template"]["metadata"]["labels"]
    policy = only(manifests, "NetworkPolicy", SERVER)["spec"]
    ((source,),) = [rule["from"] for rule in policy["ingress"]]
    assert source["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["egress"] == []
    servers = only(manifests, "StatefulSet", SERVER)["spec"]["template"]["metadata"]["labels"]
    to_servers = only(manifests, "NetworkPolicy", PROXY)["spec"]["egress"][0]
    assert to_servers["to"][0]["podSelector"]["matchLabels"].items() <= servers.items()
    assert to_servers["ports"] == policy["ingress"][0]["ports"]


def test_prometheus_finds_the_jobs_that_its_own_configuration_has() -> None:
    manifests = rendered("autoscaled")
    configuration = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"] if "dns_sd_configs" in job}
    found = {}
    for monitor in (each for each in manifests if each["kind"] == "PodMonitor"):
        name = monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
        ports = {port["name"]: port["containerPort"] for port in container(manifests, name)["ports"]}
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            (relabelled,) = endpoint["relabelings"]
            assert relabelled["targetLabel"] == "job"
            found[relabelled["replacement"]] = ports[endpoint["port"]]
            assert endpoint["interval"] == configuration["global"]["scrape_interval"]
    assert found == {name: job["dns_sd_configs"][0]["port"] for name, job in jobs.items()}
    (rule,) = only(manifests, "NetworkPolicy", "unipinrec-metrics")["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == {*found.values()}


def test_rules_are_those_of_the_prometheus_folder() -> None:
    spec = only(rendered("autoscaled"), "PrometheusRule", SERVER)["spec"]
    written = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())
    assert spec == written, "run: make kubernetes-rules"


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(only(rendered("autoscaled"), "PrometheusRule", SERVER)["spec"]))
    promtool(tmp_path, "check", "rules", str(rules))


def promtool(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [tool("promtool", "prometheus"), *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_servers_are_added_by_what_prometheus_says_of_queues_and_refusals(tmp_path: Path) -> None:
    """Users wait 30 ms for ranking and 5 ms for ann; one of two replicas refuses a fifth."""
    triggers = only(rendered("autoscaled"), "ScaledObject", SERVER)["spec"]["triggers"]
    queries = {trigger["name"]: trigger["metadata"]["query"] for trigger in triggers}
    assert all(trigger["metricType"] == "Value" for trigger in triggers)
    series = [
        # Ten requests a second of each; microseconds in the queue, a minute's growth for each step.
        *(
            line("nv_inference_request_success", pod, model, 600)
            for pod in "ab"
            for model in ("ann", "ranking")
        ),
        *(line("nv_inference_queue_duration_us", pod, "ranking", 600 * 30_000) for pod in "ab"),
        *(line("nv_inference_queue_duration_us", pod, "ann", 600 * 5_000) for pod in "ab"),
        # An ensemble's own queue is none of a node.
        line("nv_inference_queue_duration_us", "a", "recommend", 600 * 900_000),
        line("nv_inference_request_success", "a", "recommend", 600),
        *(
            {"series": f'unipinrec:refused_share:rate5m{{instance="{pod}"}}', "values": value}
            for pod, value in (("a", "0x10"), ("b", "0.2x10"))
        ),
    ]
    expected = {"queue-time": 30, "refused-percent": 20}
    tests = [
        {"expr": queries[name], "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": value}]}
        for name, value in expected.items()
    ]
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]})
    )
    promtool(tmp_path, "test", "rules", "test.yml")


def line(metric: str, pod: str, model: str, a_minute: int) -> dict[str, str]:
    labels = f'instance="{pod}", namespace="unipinrec", model="{model}"'
    return {"series": f"{metric}{{{labels}}}", "values": f"0+{a_minute}x12"}
