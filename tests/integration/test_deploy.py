# SPDX-License-Identifier: Apache-2.0
"""What deploy/ ships: the image is built and run by a real Engine, the unit is verified and its command line run, the manifests are held against Kubernetes' own
schemas and against the program."""

import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import docker_engine
import kubernetes_validate
import make_image
import pytest
import requests
import yaml
from conftest import BIN, ROOT, SLOW

DEPLOY = ROOT / "deploy"
BUILDER, STAGE, IMAGE = "envgate-test/builder:latest", "envgate-test/deploy-build:latest", "envgate-test/deploy:latest"
STOP_GRACE_S = 10  # a worker's stop_grace_s
SAMPLES = [DEPLOY / "envgate.example.json", DEPLOY / "docker/envgate.json", DEPLOY / "systemd/envgate.json"]


def check(path):
    return subprocess.run([BIN, "check", str(path)], capture_output=True, text=True, timeout=30)


def serves(process, url_of, seconds=20):
    """Waits until a gateway answers, and plays a step on its builtin environment."""
    end = time.monotonic() + seconds * SLOW
    while True:
        try:
            url = url_of()
            if url and requests.get(url + "/readyz", timeout=5).status_code == 200:
                break
        except requests.ConnectionError:
            pass
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.05)
    reply = requests.post(url + "/v1/sessions", json={"environment": "cartpole"}, timeout=60)
    assert reply.status_code == 200, reply.text
    session = f"{url}/v1/{reply.json()['name']}"
    assert requests.post(session + "/reset", json={"seed": 1}, timeout=60).status_code == 200
    assert requests.post(session + "/step", json={"action": {"action": 1}}, timeout=60).json()["reward"] == 1
    assert requests.delete(session, timeout=60).status_code == 200


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: str(p.relative_to(DEPLOY)))
def test_samples_have_no_mistake(path):
    assert check(path).returncode == 0, check(path).stderr


# --- `envgate health`


def test_health(shared_gateway, gateway, tmp_path):
    def health(*args):
        return subprocess.run([BIN, "health", *args], capture_output=True, text=True, timeout=30)

    for args in ([], ["--live"]):
        done = health(*args, shared_gateway.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unix = gateway(None, "--listen", f"unix:{tmp_path}/g.sock")
    assert all(health(unix.listen).returncode == 0 for _ in range(10))
    assert health("http://127.0.0.1:1").returncode == 1 and "127.0.0.1:1" in health("http://127.0.0.1:1").stderr
    assert "looks like" in health("nonsense").stderr or "should look like" in health("nonsense").stderr
    assert health("--what").returncode == 2
    wrong = health(shared_gateway.url + "/v1")
    assert wrong.returncode == 1 and "/v1/readyz answered 404" in wrong.stderr


# --- the image


@pytest.fixture(scope="module")
def image(engine, tmp_path_factory):
    """Built by deploy/Dockerfile from a context that has the program already, on a base made of this machine's own files."""
    engine.load(make_image.builder_tar(BIN), BUILDER, ["/bin/sh"])
    context = tmp_path_factory.mktemp("context")
    shutil.copytree(DEPLOY, context / "deploy")
    (context / "build").mkdir()
    shutil.copy(BIN, context / "build/envgate")
    env = {**os.environ, "DOCKER_BUILDKIT": "0"}  # the builder that needs no plugin
    build = ["build", "--quiet", "--file", str(context / "deploy/Dockerfile"), "--build-arg", f"BUILD_BASE={BUILDER}"]
    engine.docker(*build, "--tag", STAGE, "--target", "build", str(context), env=env)  # so that it can be removed
    engine.docker(*build, "--tag", IMAGE, str(context), env=env)
    return IMAGE


def address(engine, container):
    networks = engine.inspect(container)["NetworkSettings"]["Networks"]
    return f"http://{next(iter(networks.values()))['IPAddress']}:8080"


def test_image_is_small_and_nobodys(engine, image):
    (info,) = json.loads(engine.docker("image", "inspect", image))
    config = info["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/usr/local/bin/envgate"]
    assert "8080/tcp" in config["ExposedPorts"]
    if SLOW == 1:
        assert info["Size"] < 40e6
    with pytest.raises(docker_engine.EngineError):
        engine.docker("run", "--rm", "--entrypoint", "/bin/sh", image, "-c", "true")  # there is none


def test_image_runs(engine, image):
    container = engine.docker(
        "run", "--detach", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--health-interval", "1s", image
    )
    try:
        serves(None, lambda: address(engine, container))
        end = time.monotonic() + 20 * SLOW
        while engine.inspect(container)["State"]["Health"]["Status"] != "healthy":
            assert time.monotonic() < end, engine.inspect(container)["State"]
            time.sleep(0.1)
        pid = engine.inspect(container)["State"]["Pid"]
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.M)
        engine.docker("stop", "--time", "20", container)
        state = engine.inspect(container)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), engine.docker("logs", container)
    finally:
        engine.docker("rm", "--force", container)


def test_image_says_what_is_wrong_with_its_file(engine, image, tmp_path):
    (tmp_path / "envgate.json").write_text('{"environments": {}}')
    os.chmod(tmp_path, 0o755)
    with pytest.raises(docker_engine.EngineError, match="environments: must have at least one"):
        engine.docker("run", "--rm", "--volume", f"{tmp_path}/envgate.json:/etc/envgate/envgate.json:ro", image)


def test_secrets_of_docker_workers(engine, image, gateway, tmp_path):
    """In the worker's environment, where it asked for them, and in nothing else that the Engine or the gateway shows. The worker is the image itself."""
    (tmp_path / "token").write_text("hush-3b9\n")
    docker = {"image": image, "host": engine.host, "port": 8000, "command": ["worker", "echo", "--listen", "0.0.0.0:8000"]}
    environment = {"docker": docker, "env_vars": {"TOKEN": {"file": str(tmp_path / "token")}, "PLAIN": "{port}"}}
    g = gateway({"environments": {"e": environment, "none": {**environment, "env_vars": {"A": {"env": "NOT_THERE"}}}}}, "--log-level", "debug")
    g.create("e")
    (container,) = engine.containers("envgate.environment=e")
    shown = engine.inspect(container)
    assert {"TOKEN=hush-3b9", "PLAIN={port}"} <= set(shown["Config"].pop("Env"))
    assert "hush" not in json.dumps(shown) + g.log_text()
    assert "env_vars.A: the environment variable NOT_THERE" in g.post("/v1/sessions", {"environment": "none"}).text


# --- the unit

UNIT = DEPLOY / "systemd/envgate.service"


def unit_settings():
    pairs = [line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {key: [v for k, v in pairs if k == key] for key, _ in pairs}


def test_unit_is_well_formed_and_tight(tmp_path):
    unit = tmp_path / "envgate.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/envgate", str(BIN)))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in verified.stderr.splitlines() if "envgate" in line]
    assert verified.returncode == 0 and not complaints, verified.stderr
    score = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)], capture_output=True, text=True, timeout=60)
    assert score.returncode == 0, score.stdout[-300:] + score.stderr  # at most 2.0 of 10


def test_units_command_line_runs(tmp_path):
    settings = unit_settings()
    files = {"/usr/local/bin/envgate": str(BIN), "/etc/envgate/envgate.json": str(DEPLOY / "systemd/envgate.json"), "/run/envgate": f"/tmp/egu-{os.getpid()}"}

    def words(key):
        (line,) = settings[key]
        return [files.get(word, word) for word in shlex.split(line)]

    assert subprocess.run(words("ExecStartPre"), timeout=30).returncode == 0
    with open(tmp_path / "log", "wb") as log:
        # As under the unit: no environment but systemd's own few, and a port of the test's.
        process = subprocess.Popen([*words("ExecStart"), "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=log, text=True, env={"PATH": os.environ["PATH"]})
        try:
            line = process.stdout.readline()
            assert " serves on " in line, (tmp_path / "log").read_text()
            serves(process, lambda: "http://" + line.split(" serves on ")[1].split(": ")[0])
        finally:
            process.terminate()
            code = process.wait(30 * SLOW)
            process.stdout.close()
            shutil.rmtree(files["/run/envgate"], ignore_errors=True)
    assert code == 0
    file = json.loads((DEPLOY / "systemd/envgate.json").read_text())
    assert int(settings["TimeoutStopSec"][0]) > file["shutdown_grace_s"] + STOP_GRACE_S


# --- Kubernetes

MANIFESTS = {path.stem: list(yaml.safe_load_all(path.read_text())) for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))}
VERSION = importlib.metadata.version("kubernetes-validate")


def documents(kind=None):
    return [(name, d) for name, docs in MANIFESTS.items() for d in docs if kind in (None, d["kind"])]


def one(name, kind):
    (document,) = [d for d in MANIFESTS[name] if d["kind"] == kind]
    return document


def pod_of(name):
    return one(name, "Deployment" if name == "deployment" else "Job")["spec"]["template"]


def gateway_of(name):
    spec = pod_of(name)["spec"]
    return next(c for c in [*spec.get("initContainers", []), *spec["containers"]] if c["name"] == "envgate")


def config_of(name):
    return json.loads(one(name, "ConfigMap")["data"]["envgate.json"])


def test_there_are_manifests():
    assert set(MANIFESTS) == {"deployment", "sidecar"}


@pytest.mark.parametrize("name, document", documents(), ids=lambda v: v if isinstance(v, str) else f"{v['kind']}-{v['metadata']['name']}")
def test_manifests_fit_the_schemas(name, document):
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schemas_notice():
    broken = json.loads(json.dumps(one("deployment", "Deployment")))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_restricted(name):
    """Pod Security Standards, "restricted"."""
    spec = pod_of(name)["spec"]
    context = spec["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] > 0 and context["seccompProfile"]["type"] == "RuntimeDefault"
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert spec["automountServiceAccountToken"] is False
    assert {kind for v in spec["volumes"] for kind in v if kind != "name"} <= {"configMap", "secret", "emptyDir"}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]) and "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_fit_together(name):
    spec, container, config = pod_of(name)["spec"], gateway_of(name), config_of(name)
    image_user = re.search(r"^USER (\d+):", (DEPLOY / "Dockerfile").read_text(), re.M).group(1)
    assert spec["securityContext"]["runAsUser"] == int(image_user)
    makefile = (ROOT / "Makefile").read_text()
    assert container["image"] == "envgate:" + re.search(r"^VERSION := (.*)", makefile, re.M).group(1)
    volumes = {v["name"]: v for v in spec["volumes"]}
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert {m["name"] for m in mounts.values()} == set(volumes)
    assert volumes[mounts["/etc/envgate"]["name"]]["configMap"]["name"] == one(name, "ConfigMap")["metadata"]["name"]
    state = mounts[config["state_dir"]]
    assert "emptyDir" in volumes[state["name"]] and not state.get("readOnly")
    for environment in config["environments"].values():
        for value in [*environment.get("headers", {}).values(), *environment.get("env_vars", {}).values()]:
            if "file" in value:
                assert str(pathlib.Path(value["file"]).parent) in mounts
            else:
                assert value["env"] in {e["name"] for e in container["env"]}
    port = int(config["listen"].rsplit(":")[1])
    assert [p["containerPort"] for p in container.get("ports", [])] in ([], [port])
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert spec["terminationGracePeriodSeconds"] > sleep + config["shutdown_grace_s"] + STOP_GRACE_S
    limits = container["env"][0]["valueFrom"]["resourceFieldRef"]
    assert (limits["containerName"], limits["resource"]) == (container["name"], "limits.cpu") and float(container["resources"]["limits"]["cpu"]) >= 1


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_command_line_runs_and_its_probes_answer(name, tmp_path):
    container, config = gateway_of(name), config_of(name)
    (tmp_path / "envgate.json").write_text(json.dumps(config))
    assert check(tmp_path / "envgate.json").returncode == 0
    state = f"/tmp/egk-{os.getpid()}-{name}"
    values = {"$(CPUS)": container["resources"]["limits"]["cpu"], "/etc/envgate/envgate.json": str(tmp_path / "envgate.json")}
    args = [values.get(a, a) for a in container["args"]]
    env = {"PATH": os.environ["PATH"], "POD_NAME": "pod-0"}
    with open(tmp_path / "log", "wb") as log:
        command = [BIN, *args, "--state-dir", state, "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        try:
            line = process.stdout.readline()
            assert " serves on " in line, (tmp_path / "log").read_text()
            url = "http://" + line.split(" serves on ")[1].split(": ")[0]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                how = container[probe]
                assert how.get("timeoutSeconds", 1) >= 2 or "httpGet" in how
                if "httpGet" in how:
                    assert how["httpGet"]["port"] in {p["name"] for p in container["ports"]}
                    assert requests.get(url + how["httpGet"]["path"], timeout=5).status_code == 200
                else:
                    program, *rest = how["exec"]["command"]
                    assert program == "/usr/local/bin/envgate"
                    assert subprocess.run([BIN, *rest, url], timeout=30).returncode == 0
            serves(process, lambda: url)
        finally:
            process.terminate()
            code = process.wait(60 * SLOW)
            process.stdout.close()
            shutil.rmtree(state, ignore_errors=True)
    assert code == 0


def test_sidecar_is_a_native_one():
    spec = pod_of("sidecar")["spec"]
    (sidecar,) = spec["initContainers"]
    assert sidecar["restartPolicy"] == "Always" and "startupProbe" in sidecar
    assert config_of("sidecar")["listen"].startswith("127.0.0.1:")  # in the pod only; so its probes run in it
    assert all("exec" in sidecar[probe] for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    (url,) = [e["value"] for e in spec["containers"][0]["env"] if e["name"] == "ENVGATE_URL"]
    assert url == "http://" + config_of("sidecar")["listen"]


def test_service_and_budget_select_the_deployments_pods():
    deployment, service, budget = (one("deployment", kind) for kind in ("Deployment", "Service", "PodDisruptionBudget"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"], budget["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in {p["name"] for p in gateway_of("deployment")["ports"]}
    assert service["spec"]["sessionAffinity"] == "ClientIP"  # a session is in one replica
    assert deployment["spec"]["replicas"] > budget["spec"]["maxUnavailable"]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == "/metrics" and int(annotations["prometheus.io/port"]) == gateway_of("deployment")["ports"][0]["containerPort"]
    assert one("deployment", "ServiceAccount")["metadata"]["name"] == pod_of("deployment")["spec"]["serviceAccountName"]


# --- docs/OPERATIONS.md

OPERATIONS = (ROOT / "docs/OPERATIONS.md").read_text()


def test_operations_names_only_what_there_is():
    """Each option, metric, reason and file that it names in backquotes exists, and each reason is there."""
    reasons = re.findall(r"^\| `(\w+)` \|", subprocess.run([BIN, "docs", "reasons"], capture_output=True, text=True, check=True).stdout, re.M)
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", OPERATIONS, re.M)) == set(reasons)
    metrics = (ROOT / "docs/METRICS.md").read_text()
    measured = set(re.findall(r"\b((?:envgate|process)_[a-z_]+)\b", OPERATIONS.replace("_bucket", "")))
    assert all(f"`{name}`" in metrics for name in measured), measured
    known = set(re.findall(r"\w+", (ROOT / "docs/OPTIONS.md").read_text() + (ROOT / "docs/API.md").read_text() + metrics))
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", OPERATIONS))
    assert len(named) > 20 and not named - known, named - known
    for path in re.findall(r"`(deploy/[\w./-]+)`", OPERATIONS):
        assert (ROOT / path).exists(), path
