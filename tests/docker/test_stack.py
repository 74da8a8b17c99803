"""The container files hold together, and say what our command line and our sources understand."""

from __future__ import annotations

import importlib.util
import re
import shlex
import textwrap
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

HOME = Path(__file__).resolve().parents[2]
DOCKER = HOME / "docker"
MAIN, CUDA = DOCKER / "compose.yaml", DOCKER / "compose.cuda.yaml"
OWN_IMAGE = "${STREAMREC_IMAGE:-streamrec:cpu}"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


def stack(path: Path = MAIN) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def services() -> dict[str, dict[str, Any]]:
    return dict(stack()["services"])


def filled(text: str) -> str:
    """`text` with the defaults of its variables, as compose fills them in where nothing is set."""
    return _VARIABLE.sub(lambda match: match["default"] or "", text)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docker_{name}", DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) in order."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


def arguments(instruction: str) -> list[str]:
    return [rest for word, rest in dockerfile() if word == instruction]


# --- compose -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", services())
def test_what_a_service_names_is_there(name: str) -> None:
    whole, service = stack(), services()[name]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (DOCKER / source).exists() if source.startswith(".") else source in whole["volumes"], volume
    assert set(service.get("secrets", [])) <= whole["secrets"].keys()
    assert set(service["networks"]) <= whole["networks"].keys()
    for other, how in service.get("depends_on", {}).items():
        assert other in whole["services"]
        has_check = "healthcheck" in whole["services"][other]
        assert how["condition"] != "service_healthy" or has_check, f"{name} waits for the health of {other}"


def test_nothing_is_declared_in_vain() -> None:
    whole = stack()
    used = [volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])]
    assert whole["volumes"].keys() <= set(used)
    assert whole["secrets"].keys() == {secret for each in services().values() for secret in each.get("secrets", [])}
    assert whole["networks"].keys() == {network for each in services().values() for network in each["networks"]}


@pytest.mark.parametrize("name", services())
def test_ports_are_on_loopback_only(name: str) -> None:
    for port in services()[name].get("ports", []):
        assert filled(port).startswith("127.0.0.1:"), port
    assert "network_mode" not in services()[name]


def test_no_port_is_taken_twice() -> None:
    ports = [filled(port).split(":")[1] for each in services().values() for port in each.get("ports", [])]
    assert len(set(ports)) == len(ports) == 4


@pytest.mark.parametrize("name", services())
def test_every_service_is_bounded_and_without_privileges(name: str) -> None:
    service = services()[name]
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= limits.keys()
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged", False)
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name == "topics" else "unless-stopped")
    checked = "test" in service.get("healthcheck", {})
    assert checked or name in ("topics", "players", "consumer")


@pytest.mark.parametrize("name", ["streamrec", "consumer", "players", "prometheus", "grafana"])
def test_the_root_file_system_is_read_only(name: str) -> None:
    assert services()[name]["read_only"] is True


def test_images_are_pinned_by_tag() -> None:
    for name, service in services().items():
        image = service["image"]
        if image != OWN_IMAGE:
            assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", image), f"{name}: {image}"
    assert services()["topics"]["image"] == services()["kafka"]["image"]


def test_the_service_waits_for_its_topics_and_meets_the_broker_where_it_listens() -> None:
    kafka, service = services()["kafka"]["environment"], services()["streamrec"]
    assert service["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    servers = service["command"][service["command"].index("--bootstrap-servers") + 1]
    assert f"INSIDE://{servers}," in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert kafka["KAFKA_LOG_DIRS"] in [volume.split(":")[1] for volume in services()["kafka"]["volumes"]]
    host = next(port for port in services()["kafka"]["ports"] if port.endswith(":9094"))
    assert filled(host).split(":")[1] == filled(kafka["KAFKA_ADVERTISED_LISTENERS"]).rsplit(":", 1)[1]


def test_topics_are_the_ones_of_the_code() -> None:
    import inspect

    from consumers.kafka import KafkaWorld

    signature = inspect.signature(KafkaWorld.__init__).parameters
    names = {signature[name].default for name in ("topic", "decisions", "dead_letters")}
    made = re.search(r"for topic in ([^;]+);", services()["topics"]["command"][0])
    assert made is not None
    assert set(made[1].split()) == names


def test_run_files_go_to_the_volume() -> None:
    service = services()["streamrec"]
    run_dir = PurePosixPath(service["command"][service["command"].index("--run-dir") + 1])
    mounted = [PurePosixPath(volume.split(":")[1]) for volume in service["volumes"] if not volume.endswith(":ro")]
    assert any(place in run_dir.parents for place in mounted)
    assert [str(place) for place in mounted] == arguments("VOLUME")


def test_prometheus_finds_the_service() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text())
    service = services()["streamrec"]
    port = service["command"][service["command"].index("--port") + 1]
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "streamrec"]
    (found,) = job["dns_sd_configs"]
    assert found["names"] == ["streamrec"]
    assert str(found["port"]) == port
    assert set(services()["prometheus"]["networks"]) & set(service["networks"])
    targets = [volume.split(":")[1] for volume in services()["prometheus"]["volumes"]]
    assert set(config["rule_files"]) <= set(targets)
    assert "--config.file=/etc/prometheus/prometheus.yaml" in services()["prometheus"]["command"]


def test_grafana_finds_prometheus_and_the_boards() -> None:
    mounted = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/streamrec.yaml").read_text())["providers"]
    assert mounted["./grafana/dashboards"] == provider["options"]["path"]
    home = PurePosixPath(services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DOCKER / "grafana" / "dashboards" / home.name).is_file()
    assert str(home.parent) == provider["options"]["path"]
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_the_cuda_file_only_changes_what_exists() -> None:
    override = stack(CUDA)["services"]
    assert override.keys() == {"streamrec"}
    assert override["streamrec"]["build"]["target"] in stages()
    (device,) = override["streamrec"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


# --- commands ------------------------------------------------------------------------------------------------------


def parse(words: list[str]) -> None:
    """Have the command line parse `words` without running anything; raises click's usage error if it cannot."""
    from streamrec.cli import app

    group = typer.main.get_command(app)
    context = group.make_context("streamrec", list(words), resilient_parsing=False)
    left = [*context._protected_args, *context.args]
    name, command, rest = group.resolve_command(context, left)  # type: ignore[attr-defined]
    assert command is not None
    command.make_context(name, rest, parent=context)


def test_the_service_is_started_with_options_that_exist() -> None:
    parse([filled(word) for word in services()["streamrec"]["command"]])


def test_consumers_are_started_with_options_that_exist() -> None:
    service = services()["consumer"]
    _, called, rest = service["command"][0].replace("\\\n", " ").replace("$$", "$").partition("exec streamrec ")
    assert called
    values = {"SPEC": filled(service["environment"]["SPEC"]), "run_dir": "runs/consumer", "resume": "--resume"}
    for name, value in values.items():
        rest = rest.replace(f"${name}", value)
    assert "$" not in rest
    words = shlex.split(rest)
    parse(words)
    from streamrec import spec

    spec.load(words[1], [words[at + 1] for at, word in enumerate(words) if word == "--set"])


def test_players_are_started_with_options_that_exist() -> None:
    from streamrec import spec

    command = [filled(word) for word in services()["players"]["command"]]
    parse(command)
    users = spec.load("players", [command[command.index("--set") + 1]])
    assert users["world"]["core"]["users"] <= users["sessions"]["users"]
    port = services()["streamrec"]["command"][services()["streamrec"]["command"].index("--port") + 1]
    assert command[command.index("--http") + 1] == f"http://streamrec:{port}"


def test_commands_of_the_readme_exist() -> None:
    text = (DOCKER / "README.md").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    # What a container of the image runs stands behind the name of the command, or of the service.
    ours = re.compile(r"^streamrec |(exec|run) .*streamrec (?!python)")
    calls = [line.rpartition("streamrec ")[2] for line in lines if ours.search(line)]
    assert len(calls) >= 4
    for call in calls:
        parse(shlex.split(call))


def test_the_client_of_the_readme_is_understood(tmp_path: Path) -> None:
    from consumers.clients.settings import ClientSettings

    block = re.search(r"```toml\n(.*?)```", (DOCKER / "README.md").read_text(), re.DOTALL)
    assert block is not None
    table = tomllib.loads(textwrap.dedent("  " + block[1].lstrip()))["world"]["client"]
    (tmp_path / "password").write_text("not a secret\n")
    table["sasl_plain_password_file"] = str(tmp_path / "password")
    ClientSettings(table)
    with pytest.raises(Exception, match="sasl_mechanisms"):
        ClientSettings({**table, "sasl_mechanisms": "PLAIN"})


# --- the image -----------------------------------------------------------------------------------------------------


def stages() -> list[str]:
    return [rest.split()[-1] for rest in arguments("FROM")]


def test_copied_sources_exist_and_reach_the_build() -> None:
    patterns = [line.strip() for line in (HOME / ".dockerignore").read_text().splitlines()]
    kept = [pattern[1:].rstrip("/") for pattern in patterns if pattern.startswith("!")]
    assert "*" in patterns
    copied = [source for rest in arguments("COPY") if "--from" not in rest for source in rest.split()[:-1]]
    for source in copied:
        assert (HOME / source).exists(), source
        assert source in kept, f"{source} is left out by .dockerignore"
    assert set(kept) == set(copied), "what is sent to the build is copied by it"


def test_every_package_is_in_the_image() -> None:
    project = tomllib.loads((HOME / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {source for rest in arguments("COPY") for source in rest.split()[:-1]}
    assert packages | {"pyproject.toml", "constraints.txt", project["project"]["readme"]} <= copied
    assert set(project["project"]["license-files"]) <= copied


def test_the_image_runs_as_somebody_without_rights() -> None:
    assert arguments("USER")[-1] == "10001:10001"
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    assert arguments("ENTRYPOINT") == ['["streamrec"]']
    assert stages()[-1] == "cpu"
    assert {"builder", "runtime", "cuda", "cpu"} == set(stages())


def test_the_base_fits_the_project() -> None:
    (image,) = [rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith("PYTHON_IMAGE=")]
    version = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", image)
    assert version is not None
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={version[1]}"


def test_dependencies_of_the_image_are_those_of_the_project() -> None:
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    dependencies = script("dependencies").dependencies
    assert dependencies(HOME / "pyproject.toml") == project["dependencies"]
    (extras,) = [rest.partition("=")[2].strip('"') for rest in arguments("ARG") if rest.startswith("EXTRAS=")]
    found = dependencies(HOME / "pyproject.toml", extras)
    assert found[: len(project["dependencies"])] == project["dependencies"]
    with pytest.raises(KeyError):
        dependencies(HOME / "pyproject.toml", "no-such-extra")
    assert "torch" in {re.split(r"[<>=\[]", line)[0] for line in found}
    assert re.search(r"^torch==", (HOME / "constraints.txt").read_text(), re.MULTILINE)


# --- secrets -------------------------------------------------------------------------------------------------------


def test_no_secret_and_no_foreign_host_stands_in_the_files() -> None:
    long = re.compile(r"(?i)(password|secret|token|key)\s*[:=]\s*[\"']?[A-Za-z0-9+/_-]{16,}")
    known = ("grafana_admin_password", "streamrec_tokens", "players_token", "/run/secrets/")
    for path in sorted(DOCKER.rglob("*")):
        if not path.is_file() or path.suffix == ".pyc" or path.parent.name == "secrets":
            continue
        text = path.read_text()
        for match in long.finditer(text):
            assert any(name in match[0] for name in known), f"{path}: {match[0]}"
        hosts = set(re.findall(r"https?://([\w.-]+)", text))
        assert hosts <= {"127.0.0.1", "localhost", "streamrec", "prometheus", "kafka"}, f"{path}: {hosts}"


def test_secrets_are_never_committed_nor_sent_to_a_build() -> None:
    assert "*" in (DOCKER / "secrets" / ".gitignore").read_text().splitlines()
    kept = [line[1:] for line in (HOME / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert not any(fnmatch("docker/secrets/streamrec_tokens", f"{pattern.rstrip('/')}*") for pattern in kept)


def test_secrets_are_made_once_and_open_the_service(tmp_path: Path) -> None:
    from starlette.datastructures import Headers

    from consumers.http.access import Access
    from consumers.http.settings import Settings

    folder = tmp_path / "secrets"
    make = script("make_secrets").make
    made = make(folder)
    assert made.keys() == {"ingest", "serve", "admin", "grafana admin"}
    assert make(folder) == {}
    assert {path.name for path in folder.iterdir()} == stack()["secrets"].keys()
    assert folder.stat().st_mode & 0o077 == 0
    hashes = (folder / "streamrec_tokens").read_text()
    assert not any(secret in hashes for secret in made.values())
    settings = Settings.from_table({"host": "0.0.0.0"}, token_file=folder / "streamrec_tokens", environment={})
    access = Access(settings)
    players = (folder / "players_token").read_text().strip()
    access.check_token(Headers({"authorization": f"Bearer {players}"}), "admin")
    access.check_token(Headers({"authorization": f"Bearer {made['serve']}"}), "serve")
    with pytest.raises(Exception, match="token of scope admin"):
        access.check_token(Headers({"authorization": f"Bearer {made['ingest']}"}), "admin")
