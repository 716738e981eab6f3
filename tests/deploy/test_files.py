"""The tool that reads a file of deploy/ accepts it; where it cannot run here, its schema does."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from config.load import load
from config.model import Sections
from stack.datadir import executable
from stack.process import Child

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"
KUBERNETES = DEPLOY / "kubernetes"
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.stack


def run(*argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a command; return what it prints to stdout and stderr. It must end with status 0."""
    path = f"{BIN}:{os.environ.get('PATH', '')}:/usr/sbin"
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, "PATH": path, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout}"
    return done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


# --- Docker


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert run("hadolint", DEPLOY / "docker" / "Dockerfile") == ""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: each name, and its arguments with continued lines joined."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    split = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in split]


def test_the_image_runs_as_an_unprivileged_user_and_has_a_health_check() -> None:
    last = dict(instructions())  # the last instruction of a name holds
    user, _, group = last["USER"].partition(":")
    assert int(user) >= 10_000, "Kubernetes' runAsNonRoot requires a number"
    assert int(group) >= 10_000
    assert "/healthz" in last["HEALTHCHECK"]
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_the_build_context_has_every_package() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    included = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name[:-1] for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    for needed in (*packages, "pyproject.toml", "constraints.txt", "README.md"):
        assert needed in included, f".dockerignore leaves out {needed}"


@pytest.mark.long
def test_the_dockerfiles_commands_install_a_tapedeck_that_starts(tmp_path: Path) -> None:
    """Runs the build stage's commands without a container engine, in the test's own folders."""
    context, prefix = tmp_path / "context", tmp_path / "opt"
    context.mkdir()
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, there = ROOT / line[1:], context / line[1:]
            there.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(
                    source,
                    there,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
                )
            else:
                shutil.copy(source, there)
    build = list(instructions())[: [i for i, (n, _) in enumerate(instructions()) if n == "FROM"][1]]
    for name, command in build:
        if name == "RUN":
            here = command.replace("/opt/tapedeck", str(prefix)).replace(
                "/tmp/needed.txt", str(tmp_path / "needed.txt")
            )
            run("sh", "-ec", here, cwd=context)
    program = prefix / "bin" / "tapedeck"
    assert run(program, "--version", cwd=tmp_path).startswith("tapedeck ")
    (tmp_path / "tapedeck.yml").write_text(
        "lookup: {servers: ['127.0.0.1:1:1 a']}\nmysql: {hosts: ['127.0.0.1:1'], user: u}\n"
    )
    assert "ketama" in run(program, "check-config", "tapedeck.yml", cwd=tmp_path)
    # The dashboard is installed, and so are the runbooks that it links.
    pages = next(prefix.glob("lib/python*/site-packages/gateway/dashboard"))
    assert (pages / "guide" / "runbooks" / "TapedeckSlow.md").read_text()
    assert (pages / "guide" / "operations.md").read_text()
    assert (pages / "web" / "index.html").read_text()
    # The installed program works without the sources.
    shutil.rmtree(context)
    run(program, "serve", "--help", cwd=tmp_path)


# --- compose


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    loaded = yaml.safe_load((COMPOSE / "compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_compose_yml_keeps_to_the_compose_specification(composed: dict[str, Any]) -> None:
    project = compose_spec.PyCompose.from_yaml(yaml.safe_dump(composed))
    project.validate()  # also that the used secrets, networks and volumes are defined
    assert {"lookup1", "lookup2", "lookup3", "mysql1", "mysql2", "prometheus", "grafana"} <= set(
        project.service_names()
    )


def test_the_compose_linter_finds_no_fault_of_high_severity(tmp_path: Path) -> None:
    # In a folder of its own: the linter takes a mount from below /root for a fault.
    copied = shutil.copytree(COMPOSE, tmp_path / "compose")
    assert "PASS" in run("compose-lint", "check", "--fail-on", "high", copied / "compose.yml")


def test_the_files_that_compose_mounts_and_builds_from_exist(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), f"{name} mounts {source}"
        for needed in service.get("depends_on", ()):
            assert needed in composed["services"]
    build = composed["services"]["gateway1"]["build"]
    assert (COMPOSE / build["context"] / build["dockerfile"]).is_file()


def test_make_secrets_makes_the_secrets_of_compose_once(
    composed: dict[str, Any], tmp_path: Path
) -> None:
    run(COMPOSE / "make-secrets", tmp_path / "secrets")
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == {Path(secret["file"]).name for secret in composed["secrets"].values()}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in made.values())
    run(COMPOSE / "make-secrets", tmp_path / "secrets")
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}


def test_mysql_group_yml_extends_compose_yml(composed: dict[str, Any]) -> None:
    over = yaml.safe_load((COMPOSE / "mysql-group.yml").read_text())
    whole = {
        **composed,
        "volumes": composed["volumes"] | over["volumes"],
        "secrets": composed["secrets"] | over["secrets"],
        "services": {
            **composed["services"],
            **{
                name: composed["services"].get(name, {}) | service
                for name, service in over["services"].items()
            },
        },
    }
    whole.pop("x-mysql")
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(whole)).validate()
    test_the_files_that_compose_mounts_and_builds_from_exist(whole)
    # The gateways, the setup and the members' own options have the same hosts.
    hosts = over["services"]["gateway1"]["environment"]["TAPEDECK_MYSQL__HOSTS"]
    members = [host.partition(":")[0] for host in hosts.split(",")]
    assert members == whole["services"]["mysql-setup"]["command"][2:]
    seeds = (DEPLOY / "mysql" / "mysql-group.cnf").read_text()
    assert f"group_seeds = {hosts}" in seeds
    for number, member in enumerate(members, 1):
        command = whole["services"][member]["command"]
        assert f"--server-id={number}" in command
        assert f"--report-host={member}" in command
        assert f"--loose-group-replication-local-address={member}:3306" in command


def test_mysqls_certificate_is_valid_for_every_member_and_made_once(tmp_path: Path) -> None:
    run(COMPOSE / "make-certificates", tmp_path)
    certificate = tmp_path / "mysql_certificate"
    for member in ("mysql1", "mysql2", "mysql3"):
        ca = tmp_path / "mysql_ca"
        run("openssl", "verify", "-CAfile", ca, "-verify_hostname", member, certificate)
    before = certificate.read_text()
    run(COMPOSE / "make-certificates", tmp_path)
    assert certificate.read_text() == before


# --- the configurations


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    run(COMPOSE / "make-secrets", tmp_path / "secrets")
    return tmp_path / "secrets"


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("compose/tapedeck.yml", "/run/secrets/"),
        ("kubernetes/base/tapedeck.yml", "/run/secrets/tapedeck/"),
        ("kubernetes/production/tapedeck.yml", "/run/secrets/tapedeck/"),
        ("systemd/tapedeck.yml", "secrets/"),
    ],
)
def test_each_configuration_is_valid_for_production_with_one_worker(
    file: str, place: str, secrets: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "tapedeck.yml"
    copy.write_text((DEPLOY / file).read_text().replace(place, f"{secrets}/"))
    sections = load(copy, {})
    assert isinstance(sections, Sections)
    assert sections.mode == "production"
    # Of several workers the kernel would choose one for each connection, not for each listener.
    assert sections.gateway.workers == 1


# --- Kubernetes

KUBERNETES_VERSIONS = ("1.30", "1.37")


def manifests() -> Iterator[Path]:
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield path


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_manifest_is_valid(version: str) -> None:
    for path in manifests():
        for document in documents(path.read_text()):
            kubernetes_validate.validate(document, version, strict=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The documents that `kubectl apply -k deploy/kubernetes/production` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: install one with Kustomize 5")
    version = run(kubectl, "version", "--client")
    if "Kustomize Version: v5" not in version:
        pytest.skip(f"these files need a kubectl with Kustomize 5; installed is: {version}")
    copy = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    run(COMPOSE / "make-secrets", copy / "production" / "secrets")
    return documents(run(kubectl, "kustomize", copy / "production"))


def test_the_documents_that_kustomize_builds_are_valid(built: list[dict[str, Any]]) -> None:
    for document in built:
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def of_kind(built: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [document for document in built if document["kind"] in kinds]


def test_every_selector_finds_a_pod_and_every_mount_its_source(built: list[dict[str, Any]]) -> None:
    pods = [
        (document["metadata"]["name"], document["spec"]["template"])
        for document in of_kind(built, "StatefulSet", "Deployment")
    ]
    pods += [
        (document["metadata"]["name"], document["spec"]["jobTemplate"]["spec"]["template"])
        for document in of_kind(built, "CronJob")
    ]
    names = {
        kind: {document["metadata"]["name"] for document in of_kind(built, kind)}
        for kind in ("ConfigMap", "Secret")
    }

    def found(selector: dict[str, str]) -> bool:
        return any(selector.items() <= pod["metadata"]["labels"].items() for _, pod in pods)

    for document in of_kind(built, "Service"):
        assert found(document["spec"]["selector"]), document["metadata"]["name"]
    for document in of_kind(built, "PodDisruptionBudget", "StatefulSet", "Deployment"):
        assert found(document["spec"]["selector"]["matchLabels"]), document["metadata"]["name"]
    for document in of_kind(built, "NetworkPolicy"):
        selectors = [document["spec"]["podSelector"]]
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for rule in document["spec"].get(direction, ()):
                selectors += [peer.get("podSelector", {}) for peer in rule.get(key, ())]
        for selector in selectors:
            assert found(selector.get("matchLabels", {})), document["metadata"]["name"]
            for expression in selector.get("matchExpressions", ()):
                for value in expression["values"]:
                    assert found({expression["key"]: value})
    for name, pod in pods:
        for volume in pod["spec"].get("volumes", ()):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names["ConfigMap"], name
            if "secret" in volume:
                assert volume["secret"]["secretName"] in names["Secret"], name


def test_each_pod_is_unprivileged_and_has_limits_probes_and_a_pinned_image(
    built: list[dict[str, Any]],
) -> None:
    for document in of_kind(built, "StatefulSet", "Deployment", "CronJob"):
        spec = document["spec"]
        pod = spec.get("template", spec.get("jobTemplate", {}).get("spec", {}).get("template"))[
            "spec"
        ]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert ":" in container["image"].rpartition("/")[2]
            if document["kind"] != "CronJob":
                assert {"readinessProbe", "livenessProbe"} <= container.keys()


def test_a_pod_has_longer_to_stop_than_the_gateway_drains(built: list[dict[str, Any]]) -> None:
    (config,) = (
        yaml.safe_load(document["data"]["tapedeck.yml"])
        for document in of_kind(built, "ConfigMap")
        if "tapedeck.yml" in document["data"]
    )
    (gateway,) = (d for d in of_kind(built, "StatefulSet") if d["metadata"]["name"] == "tapedeck")
    drain = config["gateway"]["drain_seconds"]
    spec = gateway["spec"]["template"]["spec"]
    first = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] >= int(first[-1]) + drain + 10
    unit = (DEPLOY / "systemd" / "tapedeck@.service").read_text()
    assert int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) >= drain + 10


def test_the_balancer_knows_every_gateway_that_the_autoscaler_may_start() -> None:
    (scaler,) = (
        d
        for d in documents((KUBERNETES / "base" / "gateway.yaml").read_text())
        if d["kind"] == "HorizontalPodAutoscaler"
    )
    text = (KUBERNETES / "base" / "haproxy.cfg").read_text()
    known = re.findall(
        r"^ +server \S+ tapedeck-(\d+)\.tapedeck-gateways\.tapedeck\.svc", text, re.M
    )
    # Two backends have each: for requests that may be sent twice, and for the others.
    assert known == [str(n) for n in range(scaler["spec"]["maxReplicas"])] * 2


# --- balancers


def test_both_haproxy_configurations_are_valid_and_have_the_same_rules() -> None:
    ours, theirs = DEPLOY / "balance" / "haproxy.cfg", KUBERNETES / "base" / "haproxy.cfg"
    assert "Warnings" not in run("haproxy", "-c", "-V", "-f", ours)
    # Its host names cannot be resolved here, which is only a warning. resolv.conf(5): a server of
    # names that does not answer is asked once.
    impatient = {"RES_OPTIONS": "timeout:1 attempts:1"}
    assert "Configuration file is valid" in run("haproxy", "-c", "-V", "-f", theirs, env=impatient)

    def rules(path: Path) -> list[str]:
        lines = [line.strip() for line in path.read_text().splitlines()]
        return [
            line for line in lines if line and not line.startswith(("#", "server ", "presetenv"))
        ]

    assert list(difflib.unified_diff(rules(ours), rules(theirs), lineterm="", n=0)) == []


def test_haproxy_as_systemd_starts_it_gives_up_the_rights_of_root(tmp_path: Path) -> None:
    readme, config = (DEPLOY / "README.md").read_text(), tmp_path / "haproxy.cfg"
    line = next(line for line in readme.splitlines() if line.endswith("systemctl reload haproxy"))
    run("sh", "-c", line.partition(" && ")[0].replace("/etc/haproxy/haproxy.cfg", str(config)))
    assert "\n    user haproxy\n    group haproxy\n" in config.read_text()
    assert "Warnings" not in run("haproxy", "-c", "-V", "-f", config)


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "balance" / "nginx.conf").read_text()
    text = text.replace("/run/nginx-tapedeck", f"{tmp_path}/nginx")
    (tmp_path / "nginx.conf").write_text(text)
    assert "test is successful" in run("nginx", "-t", "-c", tmp_path / "nginx.conf")


# --- systemd


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units, changed to run this environment's `tapedeck`."""
    programs = tmp_path.parent / f"{tmp_path.name}-bin"
    programs.symlink_to(BIN)  # a checkout's path may have spaces
    for path in (DEPLOY / "systemd").iterdir():
        if path.suffix in (".service", ".timer", ".slice", ".target"):
            text = path.read_text().replace("/opt/tapedeck/bin/tapedeck", f"{programs}/tapedeck")
            (tmp_path / path.name).write_text(text)
    return tmp_path


def test_systemd_accepts_every_unit(units: Path) -> None:
    names = [path.name.replace("@.", "@01.") for path in units.iterdir()]
    assert len(names) == 5
    assert run("systemd-analyze", "verify", *(f"./{name}" for name in names), cwd=units) == ""


@pytest.mark.parametrize("unit", ["tapedeck@.service", "tapedeck-prune.service"])
def test_systemd_rates_the_exposure_of_a_service_at_most_2_of_10(unit: str, units: Path) -> None:
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", f"./{unit}", cwd=units)


def exec_start(units: Path, name: str, instance: str) -> list[str]:
    """The command line of a unit, as systemd would run it."""
    (line,) = re.findall(r"^ExecStart=(.*)$", (units / name).read_text(), re.MULTILINE)
    return shlex.split(line.replace("%i", instance))


def test_the_units_start_gateways_at_the_addresses_in_the_fleet_file(
    units: Path, secrets: Path, stack_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Runs their ExecStart lines with the shipped files, and the test's MySQL and lookup nodes."""
    there, here = yaml.safe_load((DEPLOY / "systemd/tapedeck.yml").read_text()), stack_config()
    there |= {"lookup": here["lookup"], "mysql": here["mysql"]}
    for key in ("token_keys_file", "service_keys_file"):
        there["auth"][key] = str(secrets / Path(there["auth"][key]).name)
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "tapedeck.yml").write_text(yaml.safe_dump(there))
    shutil.copy(DEPLOY / "systemd" / "fleet", etc)
    at_etc = ("--config", etc / "tapedeck.yml")
    children = []
    try:
        for instance in ("01", "02"):
            words = exec_start(units, "tapedeck@.service", instance)
            argv = [word.replace("/etc/tapedeck", str(etc)) for word in words]
            children.append(Child(f"tapedeck@{instance}", tmp_path / f"{instance}.log"))
            children[-1].spawn(argv, env={"CACHE_DIRECTORY": str(tmp_path), "PATH": "/usr/bin"})
        shown = run("tapedeck", "status", *at_etc, "--wait", "60")
        rows = re.findall(r"^http://127\.0\.0\.1:820[12] +\S+ +ready ", shown, re.MULTILINE)
        assert len(rows) == 2
        run("curl", "-sf", "http://127.0.0.1:8101/sets/new")
        prune = exec_start(units, "tapedeck-prune.service", "")
        run(*(word.replace("/etc/tapedeck", str(etc)) for word in prune))
        assert "nothing changed" in run("tapedeck", "reload", *at_etc)
    finally:
        for child in children:
            child.stop(10)


@pytest.mark.parametrize("kind", ["compose", "kubernetes/base"])
def test_the_fleet_file_of_a_deployment_has_its_gateways_and_its_admin_port(
    kind: str, composed: dict[str, Any], tmp_path: Path
) -> None:
    text = (DEPLOY / kind / "fleet").read_text()
    port = yaml.safe_load((DEPLOY / kind / "tapedeck.yml").read_text())["admin"].get("port", 8081)
    urls = re.findall(r"^([\w+]+)://(\S+):(\d+)$", text, re.MULTILINE)
    assert {int(url[2]) for url in urls} == {port}
    if kind == "compose":
        gateways = {name for name in composed["services"] if name.startswith("gateway")}
        assert {url[1] for url in urls} == gateways
        mounted = composed["services"]["gateway1"]["volumes"]
        assert "./fleet:/etc/tapedeck/fleet:ro" in mounted
    else:
        services = documents((KUBERNETES / "base" / "gateway.yaml").read_text())
        headless = [d for d in services if d["kind"] == "Service"]
        assert [url[:2] for url in urls] == [("dns+http", headless[0]["metadata"]["name"])]
        assert {"name": "admin", "port": port} in headless[0]["spec"]["ports"]


def test_tapedeck_reload_in_one_pod_sees_the_new_configuration_and_reaches_the_other_pods(
    built: list[dict[str, Any]],
) -> None:
    """docs/operations.md, "Change the configuration", describes it."""
    (config,) = (d for d in of_kind(built, "ConfigMap") if "tapedeck.yml" in d["data"])
    assert config["metadata"]["name"] == "tapedeck-config", "another name would restart the pods"
    assert "fleet" in config["data"]
    assert "mysql.example.internal" in config["data"]["tapedeck.yml"]
    (gateway,) = (d for d in of_kind(built, "StatefulSet") if d["metadata"]["name"] == "tapedeck")
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "config")
    assert "subPath" not in mount, "a file that is mounted by itself never changes"
    (policy,) = (d for d in of_kind(built, "NetworkPolicy") if d["metadata"]["name"] == "gateway")
    pods = gateway["spec"]["template"]["metadata"]["labels"]
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        assert any(
            {"port": 8081} in rule["ports"]
            and any(
                p["podSelector"]["matchLabels"].items() <= pods.items()
                for p in rule[peers]
                if "podSelector" in p
            )
            for rule in policy["spec"][direction]
        )


def test_both_services_have_the_same_limits() -> None:
    def bounds(name: str) -> str:
        text = (DEPLOY / "systemd" / name).read_text()
        return text[text.index("ConfigurationDirectory=") :].partition("\n[")[0].strip()

    assert bounds("tapedeck@.service") == bounds("tapedeck-prune.service")


def test_the_timer_runs_once_partitions_may_be_dropped() -> None:
    text = (DEPLOY / "systemd" / "tapedeck-prune.timer").read_text()
    (calendar,) = re.findall(r"OnCalendar=(.*)", text)
    assert "00:30:00 UTC" in run("systemd-analyze", "calendar", calendar)


# --- MySQL


def test_mariadb_knows_every_option_of_the_pair() -> None:
    config = DEPLOY / "mysql" / "pair.cnf"
    shown = run(executable(), f"--defaults-file={config}", "--user=root", "--help", "--verbose")
    for name in re.findall(r"^(\w+) *=", config.read_text(), re.MULTILINE):
        assert re.search(rf"^{name.replace('_', '[-_]')}\s", shown, re.MULTILINE), name
    assert re.search(r"^rpl-semi-sync-master-wait-point +AFTER_SYNC", shown, re.MULTILINE)
