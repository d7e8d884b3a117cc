"""deploy/: what no test starts is checked by the schemas of Compose and Kubernetes.

compose-spec.json is the schema of `docker compose config` (github.com/compose-spec/compose-go, Apache License 2.0).
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tests.support.project import ROOT

KUBERNETES = "1.35"
SCHEMA = json.loads((ROOT / "tests/support/compose-spec.json").read_text(encoding="utf-8"))
TEXTS = {name: (ROOT / "deploy" / name).read_text(encoding="utf-8") for name in ("compose.yaml", "kubernetes.yaml")}
COMPOSE = YAML(typ="safe").load(TEXTS["compose.yaml"])
OBJECTS: list[Any] = list(YAML(typ="safe").load_all(TEXTS["kubernetes.yaml"]))
RAY = YAML(typ="safe").load(ROOT / "deploy/ray-cluster.yaml")


def test_compose_yaml_is_valid() -> None:
    check = jsonschema.Draft202012Validator(SCHEMA)
    assert [error.message for error in check.iter_errors(COMPOSE)] == []
    COMPOSE["services"]["worker"]["comand"] = COMPOSE["services"]["worker"]["command"]
    (error,) = check.iter_errors(COMPOSE)
    assert "'comand' does not match" in error.message
    del COMPOSE["services"]["worker"]["comand"]


def test_its_services_are_healthy_before_others_need_them_and_listen_on_this_machine_only() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= {each for each in services if "healthcheck" in services[each]}, (
            name
        )
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_every_password_comes_from_the_environment() -> None:
    """In compose.yaml each has to be set; in kubernetes.yaml all come from the Secret."""
    secret = re.compile("PASSWORD|SECRET|ACCESS_KEY|TOKEN|AUTH_STRING|STORE_URI|CONNECTION_URL")
    variables = [each for service in COMPOSE["services"].values() for each in service.get("environment", {}).items()]
    values = {name: value for name, value in variables if secret.search(name)}
    assert len(values) > 8
    assert values.pop("GIT_TOKEN") == "${GIT_TOKEN:-}", "a repository that all may read needs none"
    assert values.pop("RAY_AUTH_TOKEN") == "${RAY_AUTH_TOKEN:-}", "flows may run without a cluster"
    assert {name: value for name, value in values.items() if not re.search(r"\$\{\w+:\?", value)} == {}
    (settings,) = (each["data"] for each in OBJECTS if each["kind"] == "ConfigMap")
    assert not [name for name in settings if secret.search(name)]


@pytest.mark.parametrize("described", OBJECTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_an_object_of_kubernetes_is_valid(described: dict[str, Any]) -> None:
    kubernetes_validate.validate(described, KUBERNETES, strict=True)


def test_the_pods_of_the_ray_cluster_are_valid() -> None:
    """KubeRay's own part has no schema in a package."""
    groups = [RAY["spec"]["headGroupSpec"], *RAY["spec"]["workerGroupSpecs"]]
    for group in groups:
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": group["template"]}
        kubernetes_validate.validate(pods, KUBERNETES, strict=True)
    assert len(groups) == 2


def test_kubernetes_runs_what_compose_runs() -> None:
    deployments = {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == "Deployment"}
    assert set(deployments) == {"mlflow", "prefect", "worker"}
    for name, described in deployments.items():
        (container,) = described["spec"]["template"]["spec"]["containers"]
        assert container["command"] == COMPOSE["services"][name]["command"]
        assert container["image"] == COMPOSE["services"][name]["image"]


def test_the_image_has_what_a_build_needs() -> None:
    """All that the Dockerfile copies is let through by its .dockerignore; so is every package of the project."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    sources = {word for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()}
    let_through = (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert sources == {line[1:] for line in let_through if line.startswith("!")}
    assert {"learn", "tasks", "flows", "web", "catalog"} <= sources
    assert all((ROOT / source).exists() for source in sources)
