"""The images' recipes and the manifests, as far as they can be proved without a container engine."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(FOLDER))

from dockerfile import instructions  # noqa: E402
from manifest_models import Compose, RayCluster, RayJob  # noqa: E402

DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.train")
COMPOSE_FILES = ("compose.yaml", "monitoring.yaml")
KUBERNETES_VERSION = "1.33"
SCRIPTS = sorted([*DOCKER.glob("steps/*.sh"), DOCKER / "bin/ray-node", DOCKER / "bin/healthy"])


def load(name: str):
    return yaml.safe_load((DOCKER / name).read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_bash(path):
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n")
    assert "\nset -euo pipefail\n" in text
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_step_of_an_image_is_a_script_with_its_arguments(name):
    for word, arguments in instructions(DOCKER / name):
        if word != "RUN":
            continue
        script, *words = shlex.split(arguments)
        path = DOCKER / script.lstrip("/")
        assert script.startswith("/steps/")
        assert path in SCRIPTS
        usage = re.search(rf"{path.name} ([A-Z][^\n]*)", path.read_text())
        num_needed = len([word for word in usage[1].split() if not word.startswith("[")]) if usage else 0
        assert len(words) >= num_needed


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_are_pinned_run_as_a_user_and_say_whether_they_are_well(name):
    found = instructions(DOCKER / name)
    bases = [arguments.split()[0] for word, arguments in found if word == "FROM"]
    assert set(bases) == {"${PYTHON_IMAGE}"}
    (python,) = (arguments for word, arguments in found if arguments.startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", python)
    last = dict(found)
    assert last["USER"] == "1000:1000"
    assert json.loads(last["HEALTHCHECK"].partition("CMD ")[2]) == ["healthy"]
    assert "RAY_AUTH_MODE=token" in last["ENV"]
    assert json.loads(last["ENTRYPOINT"]) == ["viewgen"]
    words = json.loads(last["CMD"])
    result = subprocess.run([sys.executable, "-m", "viewgen", *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # what changes most comes last: the package after its dependencies
    order = [arguments.split()[0] for word, arguments in found if word in ("RUN", "COPY")]
    assert order.index("/steps/dependencies.sh") < order.index("/steps/package.sh")


def test_the_context_holds_what_the_images_copy_and_no_more():
    for name in DOCKERFILES:
        lines = (DOCKER / f"{name}.dockerignore").read_text().split("\n")
        allowed = {line[1:] for line in lines if line.startswith("!")}
        assert "*" in lines
        assert all((ROOT / path).exists() for path in allowed)
        copied = [arguments.split()[:-1] for word, arguments in instructions(DOCKER / name) if word == "COPY"]
        for source in (path for paths in copied for path in paths if not path.startswith("--from")):
            if source not in (".", "/opt/viewgen"):
                assert (ROOT / source).exists()
                assert source.split("/")[0] in allowed


def test_the_pins_cover_every_requirement():
    pins = dict(
        line.split("==") for line in (DOCKER / "constraints.txt").read_text().splitlines() if line[0] != "#"
    )
    found = set()
    for name in DOCKERFILES:
        (step,) = (
            arguments for _, arguments in instructions(DOCKER / name) if "dependencies.sh" in arguments
        )
        extras = shlex.split(step)[4:]
        result = subprocess.run(
            [sys.executable, DOCKER / "steps/requirements.py", ROOT / "pyproject.toml", *extras],
            capture_output=True,
            text=True,
            check=True,
        )
        found |= set(result.stdout.split("\n")[:-1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= found
    for extra in ("ray", "gallery", "s3", "tensorboard"):
        assert set(project["optional-dependencies"][extra]) <= found
    names = {re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") for requirement in found}
    assert names - pins.keys() == set()
    bad = subprocess.run(
        [sys.executable, DOCKER / "steps/requirements.py", ROOT / "pyproject.toml", "nothing"],
        capture_output=True,
        text=True,
    )
    assert bad.returncode != 0
    assert "no extra 'nothing'" in bad.stderr


def test_wrong_use_of_the_scripts_is_refused(tmp_path):
    environment = {"PATH": os.environ["PATH"]}

    def run(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(words), capture_output=True, text=True, env=environment | more)

    assert "expected cpu or cuda" in run(DOCKER / "steps/dependencies.sh", tmp_path, tmp_path, "tpu").stderr
    assert "RAY_AUTH_TOKEN is not set" in run(DOCKER / "bin/ray-node", "head").stderr
    assert "usage" in run(DOCKER / "bin/ray-node", "both", RAY_AUTH_TOKEN="t").stderr
    assert "HOST:PORT of its head" in run(DOCKER / "bin/ray-node", "worker", RAY_AUTH_TOKEN="t").stderr
    assert "RAY_API_SERVER_ADDRESS" in run(DOCKER / "bin/submit", "cache").stderr
    # a node that was started and does not answer is not well
    (tmp_path / "ray-node").touch()
    sick = run(DOCKER / "bin/healthy", RAY_TMPDIR=str(tmp_path), RAY_AUTH_TOKEN="t", RAY_AGENT_PORT="9")
    assert sick.returncode != 0
    assert "does not answer" in sick.stderr


def test_compose(check_command):
    compose = Compose.model_validate(load("compose.yaml"))
    services = compose.services
    assert {"head", "worker", "job", "store", "prometheus", "grafana"} <= services.keys()
    # one Prometheus and Grafana, here and beside a run without containers
    for name, service in Compose.model_validate(load("monitoring.yaml")).services.items():
        assert service.image == services[name].image
    for name, service in services.items():
        if service.build is None:
            assert re.search(r":\S*\d", service.image), f"{name} is not pinned"
        for port in service.ports:
            assert port.startswith("127.0.0.1:"), f"{name} listens beyond this machine"
        for volume in service.volumes:
            if volume.startswith("."):
                assert (DOCKER / volume.split(":")[0]).exists(), volume
    assert services["head"].entrypoint == ["ray-node", "head"]
    assert services["worker"].entrypoint == ["ray-node", "worker"]
    assert services["job"].entrypoint == ["submit"]
    check_command(services["job"].command)
    # no secret stands in the file: whoever starts it must give them
    text = (DOCKER / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.match(r"\s+(RAY_AUTH_TOKEN|\w*PASSWORD|AWS_SECRET_ACCESS_KEY):", line):
            assert re.search(r": \$\{\w+:\?", line), line


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_files_pass_a_parser_of_the_specification(name):
    """The Compose specification as another program's parser, compose_spec, has it."""
    compose_spec = pytest.importorskip("compose_spec")
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", (DOCKER / name).read_text())
    text = re.sub(r"\$\{VIEWGEN_USER:\?.*?\}(?=\s)", "1000:1000", text)
    text = re.sub(r"\$\{VIEWGEN_RAY:\?.*?\}(?=:)", "/tmp/ray", text)
    text = re.sub(r"\$\{\w+:\?.*?\}", "given", text)
    document = yaml.safe_load(text)
    parsed = compose_spec.PyCompose.from_json(json.dumps(document))
    assert set(parsed.service_names()) == set(document["services"])
    document["services"]["grafana"]["volume"] = []
    with pytest.raises(ValueError, match="volume"):
        compose_spec.PyCompose.from_json(json.dumps(document))


def test_a_gallery_in_compose_can_be_reached_and_needs_a_token(check_command):
    services = Compose.model_validate(load("compose.yaml")).services
    program, *words = [*services["inspect"].entrypoint, *services["inspect"].command]
    assert program == "viewgen"
    check_command(words)
    assert {"--host=0.0.0.0", "--expose"} <= set(words)
    (port,) = services["inspect"].ports
    assert f"--port={port.rpartition(':')[2]}" in words
    assert services["inspect"].command[0] == services["job"].command[3].partition("=")[2]
    # the driver of a job runs in the head's container, where nobody could reach what listens there
    assert services["head"].environment["VIEWGEN_GALLERY"] == "0"


def cluster_specs():
    job = RayJob.model_validate(load("kuberay/rayjob.yaml"))
    cluster = RayCluster.model_validate(load("kuberay/raycluster.yaml"))
    return job, cluster


def test_kuberay(check_command):
    job, cluster = cluster_specs()
    assert job.spec.rayClusterSpec == cluster.spec, "the job's cluster is the standing one"
    program, *words = shlex.split(job.spec.entrypoint)
    assert program == "viewgen"
    check_command(words)
    spec = cluster.spec
    pins = (DOCKER / "constraints.txt").read_text()
    assert f"ray=={spec.rayVersion}\n" in pins
    assert spec.authOptions.mode == "token"
    assert spec.headGroupSpec.rayStartParams["num-cpus"] == "0"
    (group,) = spec.workerGroupSpecs
    assert (group.minReplicas, group.replicas) == (0, 0)
    assert group.maxReplicas >= 1
    worker = group.template.spec
    assert "nvidia.com/gpu" in worker.containers[0].resources.limits
    assert worker.nodeSelector
    assert {mount.name for mount in worker.containers[0].volumeMounts} == {
        volume.name for volume in worker.volumes
    }
    for pod in (spec.headGroupSpec.template.spec, worker):
        assert pod.securityContext.runAsNonRoot
        assert not pod.containers[0].securityContext.allowPrivilegeEscalation
        limits, requests = pod.containers[0].resources.limits, pod.containers[0].resources.requests
        assert limits["memory"] == requests["memory"]


def test_pods_pass_the_schema_of_kubernetes():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")

    def check(template: dict) -> None:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)

    for name, path in (("rayjob", ("spec", "rayClusterSpec")), ("raycluster", ("spec",))):
        spec = load(f"kuberay/{name}.yaml")
        for key in path:
            spec = spec[key]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            check(group["template"])
    group["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        check(group["template"])


def test_the_cluster_launcher_takes_its_file(check_command):
    import jsonschema
    import ray.autoscaler

    document = load("cluster.yaml")
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(document, schema)
    spot = document["available_node_types"]["gpu-spot"]
    assert spot["min_workers"] == 0
    assert spot["resources"]["GPU"] == 1
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    text = (DOCKER / "cluster.yaml").read_text()
    quoted = re.search(r'ray exec docker/cluster.yaml "viewgen (.+?)"', text.replace("\\\n#", ""), re.DOTALL)
    check_command(shlex.split(quoted[1]))


@pytest.mark.parametrize("name", ["compose.yaml", "kuberay/rayjob.yaml", "kuberay/raycluster.yaml"])
def test_an_unknown_key_is_noticed(name):
    document = load(name)
    model = {"compose.yaml": Compose, "kuberay/rayjob.yaml": RayJob}.get(name, RayCluster)
    document["replica"] = 1
    with pytest.raises(ValueError, match="replica"):
        model.model_validate(document)


def test_images_are_pinned_to_the_digests_that_their_tags_have(tmp_path):
    """With a registry of our own: a `docker` that knows a digest for every tag but one."""
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(
        "#!/bin/bash\n[[ $4 == *minio* && -n ${GONE:-} ]] && { echo 'not found' >&2; exit 1; }\n"
        'echo "sha256:$(echo "$4" | sha256sum | cut -d " " -f 1)"\n'
    )
    docker.chmod(0o755)
    names = (*DOCKERFILES, *COMPOSE_FILES)
    copies = [shutil.copy(DOCKER / name, tmp_path) for name in names]
    environment = os.environ | {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    before = [Path(copy).read_text() for copy in copies]

    def pin(**more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, DOCKER / "pin", *copies]
        return subprocess.run(words, capture_output=True, text=True, env=environment | more)

    gone = pin(GONE="1")
    assert gone.returncode != 0
    assert "minio" in gone.stderr
    assert [Path(copy).read_text() for copy in copies] == before, "all or nothing"
    assert pin().returncode == 0
    pinned = [Path(copy).read_text() for copy in copies]
    for name, text in zip(names, pinned, strict=True):
        tags = re.findall(r"^(?:ARG PYTHON_IMAGE=|\s+image: )([\w./-]+:[\w.-]+)(.*)$", text, re.MULTILINE)
        assert tags, name
        for _, rest in tags:
            assert re.fullmatch("@sha256:[0-9a-f]{64}", rest)
    Compose.model_validate(yaml.safe_load(pinned[2]))
    assert pin().returncode == 0
    assert [Path(copy).read_text() for copy in copies] == pinned
