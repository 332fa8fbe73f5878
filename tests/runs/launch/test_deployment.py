"""What a cluster is described by: against the schemas of those who read it. Nothing is run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgseg.runs.launch.command import parse
from dgseg.runs.launch.main import checked

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "ray_jobs" / "cluster"


def test_the_machines_file_is_what_ray_up_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "machines.yaml").read_text())
    validate_config(prepare_config(config))  # the schema, and what Ray checks beyond it
    with pytest.raises(Exception, match="shm"):
        validate_config(prepare_config(config | {"shm": 1}))


# Of KubeRay's ray.io/v1, as its API reference lists them: field -> type, or the fields of a nested object.
POD = {"metadata": dict, "spec": dict}
GROUP = {"template": POD, "rayStartParams": dict}
RAY_CLUSTER = {
    "suspend": bool,
    "managedBy": str,
    "authOptions": {"mode": str, "secretName": str, "enableK8sTokenAuth": bool},
    "autoscalerOptions": dict,
    "headServiceAnnotations": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec": GROUP | {"headService": dict, "enableIngress": bool, "serviceType": str},
    "rayVersion": str,
    "workerGroupSpecs": [
        GROUP
        | {
            "groupName": str,
            "suspend": bool,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "idleTimeoutSeconds": int,
            "numOfHosts": int,
            "scaleStrategy": dict,
        }
    ],
}
RAY_JOB = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "rayClusterSpec": RAY_CLUSTER,
    "submitterPodTemplate": POD,
    "metadata": dict,
    "clusterSelector": dict,
    "submitterConfig": dict,
    "managedBy": str,
    "deletionStrategy": dict,
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": str,
    "entrypointResources": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
}


def check(found: Any, known: Any, path: str) -> None:
    if isinstance(known, list):
        assert isinstance(found, list), path
        for place, each in enumerate(found):
            check(each, known[0], f"{path}[{place}]")
    elif isinstance(known, dict):
        assert isinstance(found, dict), path
        for name, value in found.items():
            assert name in known, f"{path}.{name} is no field of KubeRay's"
            check(value, known[name], f"{path}.{name}")
    else:
        assert type(found) is known, f"{path} is {found!r}, not of type {known.__name__}"


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    return found


def test_the_manifest_has_kuberays_fields() -> None:
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    check(job["spec"], RAY_JOB, "spec")
    for group in (job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_manifests_command_is_one_of_ours_and_fits_its_pods() -> None:
    spec = manifest()["spec"]
    python, script, *words = spec["entrypoint"].split()
    assert (python, (ROOT / script).is_file()) == ("python", True)
    launch = checked(parse(words, prog="train")).launch
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["maxReplicas"], group["minReplicas"]) == (launch.workers, launch.min_workers)
    assert int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) >= (
        launch.cpus_per_worker or 1
    )


def test_versions_are_the_tested_ones() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    assert f"ray=={manifest()['spec']['rayClusterSpec']['rayVersion']}\n" in constraints


INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "ARG", "LABEL", "ENTRYPOINT", "CMD", "SHELL"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_dockerfile_copies_what_is_there_and_ends_where_the_job_starts() -> None:
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert found[0][0] == "FROM"
    stages = re.findall(r"^FROM \S+(?: AS (\w+))?$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    let_in = re.findall(r"^!(\S+)$", (CLUSTER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    for name, rest in found:
        if name == "COPY":
            flags = [word for word in rest.split() if word.startswith("--")]
            sources = [word for word in rest.split() if not word.startswith("--")][:-1]
            stage = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), None)
            assert stage is None or stage in stages
            for source in sources if stage is None else ():
                assert (ROOT / source).exists(), source
                assert source in let_in, f"{source} is kept out by Dockerfile.dockerignore"
    assert found[-3:] == [
        ("WORKDIR", "/home/ray/dgseg"),
        ("COPY", "--chown=ray ray_jobs ray_jobs"),
        ("COPY", "--chown=ray tuning tuning"),
    ]


def test_the_image_installs_what_the_extras_are_called() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r"'\.\[(.+)\]'", (CLUSTER / "Dockerfile").read_text())
    assert set(installed.split(",")) <= set(extras)


def test_what_a_job_takes_along() -> None:
    """The package goes by itself: its folder has no .gitignore that would keep the libraries back."""
    package = yaml.safe_load((ROOT / "ray_jobs" / "package.yaml").read_text())
    assert package == {"py_modules": ["dgseg"]}
    assert not (ROOT / "dgseg" / ".gitignore").exists()
    assert json.dumps(package)
    left = (ROOT / ".rayignore").read_text().splitlines()
    assert "/dgseg" in left
    assert "/*" not in left, "it would leave the folder itself behind"
