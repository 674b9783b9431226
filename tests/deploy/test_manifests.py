"""What deploy/ says, against what it speaks of: schemas, the settings, the commands, the metrics, the files.

None of it is run here (no Docker, no cluster): these are parsers and schemas, and the README says so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from compose_spec import PyCompose
from prometheus_client import Counter, Gauge, Histogram

from deploy.vllm.server import FLAGS, VENV
from interest.errors import InputError
from streams.kafka.clients import group_of
from streams.kafka.topics import STAGES, Topics
from streams.observability.metrics import Metrics
from streams.page.sessions import read_secrets
from streams.service.access import Keys
from streams.service.metrics import ServiceMetrics
from streams.settings.load import load_settings
from streams.settings.schema import KafkaSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY.parent
DOCKERFILES = sorted((DEPLOY / "docker").glob("*Dockerfile"))
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VERSION = "1.30.0"  # the oldest Kubernetes that we write for
OTHERS_KINDS = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}  # of KEDA and the Prometheus operator: no schema
COMPOSE_VARIABLES = {
    "POSTGRES_PASSWORD": "p",
    "LLM_KEY": "k",
    "GRAFANA_PASSWORD": "g",
    "HOME": "/home/me",
    "SERVE_KEYS": f"shop read,write {'0' * 64}",
    "PAGE_SECRET": "0" * 64,
}


def documents(file: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


def compose() -> dict[str, Any]:
    """The Compose file with its variables filled in, as Compose does."""

    def fill(match: re.Match[str]) -> str:
        name, rest = match["name"], match["rest"] or ""
        if name in COMPOSE_VARIABLES:
            return COMPOSE_VARIABLES[name]
        assert rest.startswith(":-"), f"{name} has no default, and compose.env.example does not name it"
        return rest[2:]

    text = (DEPLOY / "compose.yaml").read_text()
    for _ in range(2):  # a default may hold a variable
        text = re.sub(r"\$\{(?P<name>\w+)(?P<rest>:[-?](?:[^${}]|\$\{\w+\})*)?\}", fill, text)
    return yaml.safe_load(text)


def pods() -> dict[str, dict[str, Any]]:
    """Every pod template of the Kubernetes files, by the name of what makes it."""
    made = [one for file in KUBERNETES for one in documents(file) if "template" in one.get("spec", {})]
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in made}


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "interestream.json").read_text())


def commands() -> dict[str, list[str]]:
    """The arguments that containers give to `interestream`, by their service or pod."""
    found = {name: one["command"] for name, one in compose()["services"].items() if "worker" in one["image"]}
    containers = {name: pod["containers"][0] for name, pod in pods().items()}
    return found | {name: one["args"] for name, one in containers.items() if "worker" in one["image"]}


def environments() -> dict[str, dict[str, str]]:
    """What our containers are told."""
    found = {name: one["environment"] for name, one in compose()["services"].items() if "worker" in one["image"]}
    settings, secret = (
        documents(DEPLOY / "kubernetes" / name)[0] for name in ("settings.yaml", "secret.template.yaml")
    )
    found["kubernetes"] = settings["data"] | secret["stringData"]
    for name in ("interestream-serve", "interestream-page"):
        found[name] = {one["name"]: one["value"] for one in pods()[name]["containers"][0]["env"]}
    for file in DOCKERFILES:
        words = re.findall(r"\b(INTERESTREAM_\w+)=(\S+)", file.read_text().replace("\\\n", " "))
        found[file.name] = dict(words)
    return found


def vllm_flags() -> dict[str, list[str]]:
    """The arguments of every vLLM server."""
    found = {"server.py": list(FLAGS)}
    found |= {name: one["command"] for name, one in compose()["services"].items() if name.startswith("vllm")}
    return found | {"kubernetes": pods()["vllm"]["containers"][0]["args"]}


def metric_names() -> set[str]:
    """The names under which Prometheus knows the workers' metrics."""
    names = set()
    for metric in (*vars(Metrics()).values(), *vars(ServiceMetrics()).values()):
        if isinstance(metric, Counter):
            names.add(f"{metric._name}_total")
        elif isinstance(metric, Histogram):
            names |= {f"{metric._name}_{part}" for part in ("bucket", "sum", "count")}
        elif isinstance(metric, Gauge):
            names.add(metric._name)
    return names


def queries() -> list[str]:
    """Every PromQL expression of the alerts, the dashboard and the autoscaling."""
    rules = [rule for group in documents(DEPLOY / "prometheus" / "alerts.yml")[0]["groups"] for rule in group["rules"]]
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    scaled = [trigger["metadata"] for one in scaled_objects().values() for trigger in one["triggers"]]
    return [rule["expr"] for rule in rules] + targets + [told["query"] for told in scaled if "query" in told]


def scaled_objects() -> dict[str, Any]:
    found = documents(DEPLOY / "kubernetes" / "autoscaling-keda.yaml")
    return {one["metadata"]["name"]: one["spec"] for one in found if one["kind"] == "ScaledObject"}


def test_the_compose_file_follows_the_compose_specification() -> None:
    parsed = PyCompose.from_yaml(yaml.safe_dump(compose()))
    assert {"kafka", "postgres", "topics", *(f"worker-{stage}" for stage in STAGES)} <= set(parsed.service_names())


def test_a_compose_file_with_a_misspelt_key_would_be_seen() -> None:
    broken = compose()
    broken["services"]["kafka"]["enviroment"] = {}
    with pytest.raises(ValueError, match="enviroment"):
        PyCompose.from_yaml(yaml.safe_dump(broken))


def test_every_variable_of_the_compose_file_is_in_its_example() -> None:
    example = (DEPLOY / "compose.env.example").read_text()
    asked = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert asked
    assert asked <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_every_build_has_its_dockerfile_and_every_mount_its_file() -> None:
    volumes = compose()["volumes"]
    for service in compose()["services"].values():
        if "build" in service:
            context = DEPLOY / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).exists()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("/"):
                assert source in volumes


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles_are_clean_and_copy_what_there_is(file: Path) -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    ignored = (ROOT / ".dockerignore").read_text().split()
    text = file.read_text()
    sources = [source for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for source in line.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source.rstrip('/')}" in ignored, f"{source} is kept from the build by .dockerignore"
    assert re.search(r"^USER \d+$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.name)
def test_kubernetes_manifests_follow_their_schemas(file: Path) -> None:
    found = documents(file)
    assert found
    for one in found:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "interestream"
        if one["kind"] not in OTHERS_KINDS:
            kubernetes_validate.validate(one, VERSION, strict=True)


def test_selectors_find_their_pods_and_autoscalers_their_deployments() -> None:
    every = [one for file in KUBERNETES for one in documents(file)]
    made = {one["metadata"]["name"]: one["spec"] for one in every if one["kind"] == "Deployment"}
    labels = {name: spec["template"]["metadata"]["labels"] for name, spec in made.items()}
    assert {f"interestream-{one}" for one in (*STAGES, "serve", "page")} <= set(made)
    for one in every:
        selector = one.get("spec", {}).get("selector", {}) if one["kind"] != "Job" else {}
        wanted = selector.get("matchLabels", selector)
        if wanted:
            assert any(wanted.items() <= pod.items() for pod in labels.values()), one["metadata"]["name"]
        if target := one.get("spec", {}).get("scaleTargetRef"):
            assert target["name"] in made


def test_workers_have_time_to_drain_probes_and_no_service_links() -> None:
    """Kubernetes would add INTERESTREAM_..._SERVICE_HOST to the environment, which the settings refuse."""
    settings = load_settings(environ={})
    drain = max(settings.agent.drain_s, settings.serve.drain_s)
    for name, pod in pods().items():
        assert pod["enableServiceLinks"] is False
        (container,) = pod["containers"]
        if name.startswith("interestream-") and name != "interestream-topics":
            assert pod["terminationGracePeriodSeconds"] >= drain + 5
            ready = (
                "/live" if name == "interestream-page" else "/ready"
            )  # the page says itself that its service is away
            assert container["readinessProbe"]["httpGet"]["path"] == ready
            assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    with pytest.raises(InputError, match="INTERESTREAM_API_SERVICE_HOST"):
        load_settings(environ={"INTERESTREAM_API_SERVICE_HOST": "10.0.0.1"})


@pytest.mark.parametrize("place", environments())
def test_what_containers_are_told_are_settings(place: str) -> None:
    told = {name: text for name, text in environments()[place].items() if name.startswith("INTERESTREAM_")}
    if place != "vllm-cpu.Dockerfile":
        assert told
    settings = load_settings(environ=told)
    assert "PASSWORD" not in repr(settings.kafka)


@pytest.mark.parametrize("place", commands())
def test_what_containers_run_are_commands(place: str) -> None:
    """Run as they are, with a setting that ends them at once: what is not a command or an option fails otherwise."""
    arguments = commands()[place]
    environment = {"INTERESTREAM_KAFKA_PARTITIONS": "none", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "streams", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 2
    assert "INTERESTREAM_KAFKA_PARTITIONS" in done.stderr
    if "--stages" in arguments:
        assert arguments[-1] in STAGES


def test_every_metric_that_is_asked_for_is_one() -> None:
    """Parsed as PromQL; a metric of ours that is renamed fails here."""
    known, seen = metric_names(), set()
    for query in queries():
        text = query.replace("$__rate_interval", "5m").replace("$instance", ".*")
        promql_parser.parse(text)
        seen |= set(re.findall(r"\binterestream_\w+", text))
    assert seen <= known
    shown = {re.sub(r"_(bucket|sum|count)$", "_bucket", name) for name in known}
    assert {name for name in shown if name not in seen} <= {"interestream_skipped_total"}  # all others are shown


def test_the_service_is_reached_by_whom_it_should_be_and_asks_for_keys() -> None:
    """Its port is its setting, its keys come from the mounted secret, and its policies name the page's labels."""
    pod = pods()["interestream-serve"]
    (container,) = pod["containers"]
    told = load_settings(environ=environments()["interestream-serve"]).serve
    assert [port["containerPort"] for port in container["ports"]] == [told.port]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    (secret,) = (
        one
        for one in documents(DEPLOY / "kubernetes" / "secret.template.yaml")
        if one["metadata"]["name"] == pod["volumes"][1]["secret"]["secretName"]
    )
    assert told.keys_file == f"{mounts['keys']}/{next(iter(secret['stringData']))}"
    served = compose()["services"]["serve"]["environment"]
    keys = load_settings(environ=served).serve.keys
    assert keys is not None
    assert Keys(keys.value).any
    page = load_settings(environ=environments()["interestream-page"]).page
    assert page.api == f"http://interestream-serve:{told.port}"
    policies = [
        one
        for name in ("service.yaml", "page.yaml")
        for one in documents(DEPLOY / "kubernetes" / name)
        if one["kind"] == "NetworkPolicy"
    ]
    allowed = [rule for one in policies for way in ("ingress", "egress") for rule in one["spec"][way]]
    labels = [{"app.kubernetes.io/name": f"interestream-{name}"} for name in ("serve", "page")]
    named = [
        end["podSelector"]["matchLabels"]
        for rule in allowed
        for end in (*rule.get("from", ()), *rule.get("to", ()))
        if "podSelector" in end
    ]
    assert sorted(map(str, named)) == sorted(map(str, labels))
    scaled = scaled_objects()["interestream-serve"]["triggers"][0]["metadata"]["query"]
    assert "interestream_serve_in_flight" in scaled


def test_the_page_has_a_secret_that_outlives_it() -> None:
    """Else everybody would have to log in again whenever it is started again: its file system is not its own."""
    (source,) = pods()["interestream-page"]["containers"][0]["envFrom"]
    (secret,) = (
        one
        for one in documents(DEPLOY / "kubernetes" / "secret.template.yaml")
        if one["metadata"]["name"] == source["secretRef"]["name"]
    )
    for told in (secret["stringData"], compose()["services"]["page"]["environment"]):
        assert read_secrets(load_settings(environ=told).page, Path("/nonexistent"))


def test_kafka_scaling_follows_the_groups_and_topics_that_there_are() -> None:
    settings, topics = KafkaSettings(), Topics()
    triggers = {name: spec["triggers"][0] for name, spec in scaled_objects().items()}
    for stage in set(STAGES) - {"ingest"}:
        trigger = triggers[f"interestream-{stage}"]["metadata"]
        assert (trigger["consumerGroup"], (trigger["topic"],)) == (group_of(settings, stage), topics.read_by(stage))
    # ingest's offsets are in the store: its group's lag in Kafka says nothing
    assert triggers["interestream-ingest"]["type"] == "prometheus"
    most = int(documents(DEPLOY / "kubernetes" / "settings.yaml")[0]["data"]["INTERESTREAM_KAFKA_PARTITIONS"])
    assert all(spec["maxReplicaCount"] <= most for spec in scaled_objects().values())


@pytest.mark.parametrize("place", vllm_flags())
def test_vllm_knows_every_flag(place: str) -> None:
    """Against the source of the version that `make vllm-install` installed."""
    package = next((VENV / "lib").glob("python*/site-packages/vllm"))
    engine = (package / "engine" / "arg_utils.py").read_text()
    frontend = (package / "entrypoints" / "launchers" / "cli_args.py").read_text()
    known = set(re.findall(r'"(--[a-z][a-z-]+)"', engine))
    known |= {f"--{name.replace('_', '-')}" for name in re.findall(r"^    ([a-z_]+): ", frontend, re.MULTILINE)}
    known.add("--model")
    for flag in vllm_flags()[place]:
        assert flag.split("=")[0] in known, flag
        if flag.startswith("--structured-outputs-config="):
            assert json.loads(flag.split("=", 1)[1])["disable_any_whitespace"] is True


def test_vllm_is_one_version_everywhere() -> None:
    installed = re.search(r"^vllm-cpu==(\S+)$", (DEPLOY / "vllm" / "constraints.txt").read_text(), re.MULTILINE)
    assert installed
    images = {compose()["services"]["vllm-gpu"]["image"], pods()["vllm"]["containers"][0]["image"]}
    assert images == {f"vllm/vllm-openai:v{installed[1]}"}


def test_constraints_name_versions_and_nothing_else() -> None:
    lines = (DEPLOY / "vllm" / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[a-z0-9._-]+==[a-z0-9.!]+", line) for line in lines)
