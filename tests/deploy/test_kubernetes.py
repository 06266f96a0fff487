"""The manifests for Kubernetes: valid, consistent, and in step with the settings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from service.settings import load
from service.storage.migrations import revisions
from tests.deploy.files import DEPLOY, endpoints

FOLDER: Final = DEPLOY / "kubernetes"
BASE: Final = FOLDER / "base"
OVERLAY: Final = FOLDER / "overlays" / "example"
KUSTOMIZATION: Final = "kustomization.yaml"
VERSION: Final = "1.37"
SETTINGS_FILE: Final = "copilot-usage.toml"

Manifest = dict[str, Any]


def read(file: Path) -> Manifest:
    """Return the only document of a file."""
    document: Manifest = yaml.safe_load(file.read_bytes())
    return document


def resources(folder: Path) -> Iterator[Manifest]:
    """Every resource of a kustomization, and of those that it is based on."""
    for name in read(folder / KUSTOMIZATION)["resources"]:
        found = folder / name
        if found.is_dir():
            yield from resources(found)
        else:
            yield read(found)


ALL: Final = {each["kind"]: each for each in resources(OVERLAY)}
POD: Final = ALL["Deployment"]["spec"]["template"]["spec"]
CONTAINER: Final = POD["containers"][0]
CONTAINERS: Final = [*POD["initContainers"], *POD["containers"]]


@pytest.mark.parametrize("kind", ALL)
def test_manifests_are_valid(kind: str) -> None:
    """Each is valid for a current version, without unknown fields."""
    kubernetes_validate.validate(ALL[kind], VERSION, strict=True)


@pytest.mark.parametrize("folder", [BASE, OVERLAY], ids=lambda folder: folder.name)
def test_kustomizations_are_complete(folder: Path) -> None:
    """Each file is used, each used file exists, each patch has its target."""
    kustomization = read(folder / KUSTOMIZATION)
    patches = [each["path"] for each in kustomization.get("patches", ())]
    generated = [
        file for each in kustomization["configMapGenerator"] for file in each["files"]
    ]
    files = {each.name for each in folder.iterdir()} - {KUSTOMIZATION}
    targets = {
        (each["apiVersion"], each["kind"], each["metadata"]["name"])
        for each in ALL.values()
    }

    listed = {each for each in kustomization["resources"] if "/" not in each}
    assert files == {*listed, *patches, *generated}
    for patch in map(read, (folder / each for each in patches)):
        target = patch["apiVersion"], patch["kind"], patch["metadata"]["name"]
        assert target in targets
    for image in kustomization.get("images", ()):
        assert image["name"] in {each["image"] for each in CONTAINERS}


def test_names_and_labels_agree() -> None:
    """All that selects the pods or names a part of them means the same ones."""
    deployment = ALL["Deployment"]["spec"]
    (generator,) = read(BASE / KUSTOMIZATION)["configMapGenerator"]
    selectors = [
        deployment["selector"]["matchLabels"],
        ALL["Service"]["spec"]["selector"],
        ALL["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        ALL["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in POD["topologySpreadConstraints"]
        ),
    ]
    scaled = ALL["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]

    assert selectors == [deployment["template"]["metadata"]["labels"]] * len(selectors)
    assert scaled["name"] == ALL["Deployment"]["metadata"]["name"]
    assert "replicas" not in deployment
    assert POD["serviceAccountName"] == ALL["ServiceAccount"]["metadata"]["name"]
    assert POD["volumes"][0]["configMap"]["name"] == generator["name"]
    (mount, _) = CONTAINER["volumeMounts"]
    for container in CONTAINERS:
        settings = f"{mount['mountPath']}/{SETTINGS_FILE}"
        assert container["args"][1:] == ["--config", settings]


def test_pods_meet_the_restricted_standard() -> None:
    """No root, no rights, a read-only file system, no token, no foreign variables."""
    job = read(FOLDER / "roll-back.yaml")
    kubernetes_validate.validate(job, VERSION, strict=True)
    pods = [POD, job["spec"]["template"]["spec"]]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        # The variables of a Service begin like settings, and the service refuses them.
        assert pod["enableServiceLinks"] is False
    containers = [each for pod in pods for each in (*pod["containers"], CONTAINERS[0])]
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["envFrom"] == CONTAINER["envFrom"]
        assert container["resources"]["limits"]["memory"]
    assert pods[1]["containers"][0]["args"][2] in revisions()


def test_probes_ask_endpoints_of_the_service() -> None:
    """Paths and ports are those of the service; a pod without a period is not ready."""
    server = load(BASE / SETTINGS_FILE).settings.server
    (port,) = CONTAINER["ports"]
    probes = [
        CONTAINER[f"{name}Probe"] for name in ("startup", "readiness", "liveness")
    ]

    assert port["containerPort"] == server.port
    for probe in probes:
        assert probe["httpGet"]["path"] in endpoints()
        assert probe["httpGet"]["port"] == port["name"]
    assert ALL["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert [each["httpGet"]["path"] for each in probes] == [
        "/health/live",
        "/health/ready",
        "/health/live",
    ]
    for folder in (BASE, OVERLAY):
        assert load(folder / SETTINGS_FILE).settings.health.require_snapshot
    assert probes[0]["periodSeconds"] * probes[0]["failureThreshold"] >= 120


@pytest.mark.parametrize("folder", [BASE, OVERLAY], ids=lambda folder: folder.name)
def test_pods_stop_without_losing_a_request(folder: Path) -> None:
    """The probe notices during the drain, and Kubernetes waits for the whole stop."""
    server = load(folder / SETTINGS_FILE).settings.server
    probe = CONTAINER["readinessProbe"]

    noticed_s = (
        probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    )
    assert server.drain_s > noticed_s
    assert POD["terminationGracePeriodSeconds"] > server.shutdown_grace_s
    # Old pods stay until new ones have been ready for some time.
    deployment = ALL["Deployment"]["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment["minReadySeconds"] > 0
