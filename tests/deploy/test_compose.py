"""`compose.production.yaml`, as Compose reads it, and the secrets for it."""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import yaml

from service.settings import load
from tests.deploy.files import DEPLOY, read_yaml, seconds
from tests.nats_servers import PROGRAM
from tests.patience import GIVE_UP_S
from tests.ports import free_port

COMPOSE: Final = shutil.which("docker-compose")
FILES: Final = ("compose.yaml", "compose.production.yaml")
PRODUCTION: Final = read_yaml("compose.production.yaml")
UPSTREAM: Final = "https://upstream.test/period"
MIGRATION: Final = "migrate"

needs_compose = pytest.mark.skipif(not COMPOSE, reason="needs docker-compose")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def services() -> dict[str, dict[str, Any]]:
    """The services for production, with anchors resolved."""
    found: dict[str, dict[str, Any]] = PRODUCTION["services"]
    return found


@needs_compose
def test_compose_adds_the_queue_to_the_file_for_production() -> None:
    """Three servers of NATS and a writer, confined as the other containers."""
    names = ("compose.production.yaml", "compose.queue.yaml")
    files = [each for name in names for each in ("--file", str(DEPLOY / name))]
    command = [str(COMPOSE), *files, "config"]
    environment = {**os.environ, "NATS_PASSWORD": "12345"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    merged = yaml.safe_load(done.stdout)["services"]
    assert merged.keys() - services().keys() == {"n1", "n2", "n3", "writer"}
    for name in ("n1", "n2", "n3", "writer"):
        assert (merged[name]["read_only"], merged[name]["cap_drop"]) == (True, ["ALL"])
        assert merged[name]["security_opt"] == ["no-new-privileges:true"]
        assert merged[name]["mem_limit"]
    grace_s = load().settings.server.shutdown_grace_s
    assert seconds(merged["writer"]["stop_grace_period"]) > grace_s
    for name in ("n1", "n2", "n3"):
        given = merged[name]["environment"]["NATS_PASSWORD"]
        assert check_nats({"NATS_PASSWORD": given}) == (0, "")
    # Only the file for production has the command of the service.
    assert merged["copilot-usage"]["environment"] == {
        "COPILOT_USAGE_EVENTS__QUEUE_WRITER": "false"
    }


@needs_compose
def test_the_servers_of_the_queue_need_a_password() -> None:
    """Without one, they would let everybody in."""
    command = [str(COMPOSE), "--file", str(DEPLOY / "compose.queue.yaml"), "config"]
    environment = {k: v for k, v in os.environ.items() if k != "NATS_PASSWORD"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "NATS_PASSWORD" in done.stderr


@pytest.mark.parametrize("password", ["a", "12345", "5m", "7e3c2f91d0b4", "true"])
def test_nats_accepts_its_configuration(password: str) -> None:
    """The oldest version that the service works with understands each line."""
    assert check_nats({"NATS_PASSWORD": f'"{password}"'}) == (0, "")


def check_nats(variables: dict[str, str]) -> tuple[int, str]:
    """Let the server read its file; return the status, and the output of a failure."""
    command = [PROGRAM, "-t", "-c", str(DEPLOY / "nats" / "nats.conf")]
    environment = {**os.environ, "NAME": "n1", **variables}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr if done.returncode else ""


@needs_compose
@pytest.mark.parametrize("name", FILES)
def test_compose_accepts_the_file(name: str) -> None:
    """`docker-compose config` prints what it has understood."""
    command = [str(COMPOSE), "--file", str(DEPLOY / name), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "copilot-usage" in yaml.safe_load(done.stdout)["services"]


def test_containers_are_confined() -> None:
    """Each has exact versions, limits, no rights, bounded logs, and no open port."""
    for name, service in services().items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert 0 < service["pids_limit"] <= 256
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}
        assert service["restart"] == ("no" if name == MIGRATION else "unless-stopped")
        assert service["healthcheck"]
        assert re.search(
            r":(v?\d+\.\d+[\w.-]*|\$\{VERSION:-latest\})$", service["image"]
        )
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in PRODUCTION["volumes"] or (DEPLOY / source).exists(), source


def test_the_service_has_time_to_stop() -> None:
    """Compose waits longer than `server.shutdown_grace_s` before it kills."""
    grace_s = load().settings.server.shutdown_grace_s
    for name in FILES:
        service = read_yaml(name)["services"]["copilot-usage"]
        assert seconds(service["stop_grace_period"]) > grace_s


def test_prometheus_scrapes_the_service() -> None:
    """The target is the service; the job and the rules are those of the alerts."""
    config = read_yaml("prometheus/prometheus.yaml")
    (job,) = config["scrape_configs"]
    (rules,) = config["rule_files"]
    (port,) = services()["copilot-usage"]["ports"]

    targets = job["static_configs"][0]["targets"]
    assert targets == [f"copilot-usage:{port.rpartition(':')[2]}"]
    (writers,) = job["dns_sd_configs"]
    (name,) = writers["names"]
    queue = read_yaml("compose.queue.yaml")["services"]
    assert queue[name]["command"][0] == "writer"
    assert writers["port"] == load().settings.server.port
    networks = services()["prometheus"]["networks"]
    assert set(networks) <= set(queue[name]["networks"])
    assert f'job="{job["job_name"]}"' in (DEPLOY / "prometheus" / rules).read_text()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder that `make-secrets` has made."""
    script = shutil.copy(DEPLOY / "make-secrets", tmp_path)
    subprocess.run([script, UPSTREAM], check=True)
    return tmp_path / "secrets"


@needs_root
def test_secrets_are_what_compose_mounts(secrets: Path) -> None:
    """Each file belongs to the user of its container alone, and is never replaced."""
    files = {each.name: each.stat() for each in secrets.iterdir()}
    users = {
        name: 10001
        if service["image"].startswith("copilot-usage:")
        else service["user"]
        for service in services().values()
        for name in service.get("secrets", ())
    }

    assert {name: found.st_uid for name, found in files.items()} == {
        name: int(str(user).partition(":")[0]) for name, user in users.items()
    }
    assert {stat.S_IMODE(found.st_mode) for found in files.values()} == {0o400}
    again = subprocess.run([secrets.parent / "make-secrets", UPSTREAM], check=False)
    assert again.returncode == 1
    assert {each.name: each.stat() for each in secrets.iterdir()} == files


@needs_root
def test_the_secrets_fit_each_other(secrets: Path) -> None:
    """The service accepts its settings; PostgreSQL and Redis have their passwords."""
    settings = load(secrets / "copilot-usage.toml").settings
    password = (secrets / "postgres-password").read_text(encoding="utf-8")
    gateway = PRODUCTION["networks"]["front"]["ipam"]["config"][0]["gateway"]

    assert settings.upstream.base_url == UPSTREAM
    assert settings.storage.url == (
        f"postgresql+asyncpg://copilot_usage:{password}@postgres/copilot_usage"
    )
    assert settings.limits.trusted_proxies == (gateway,)
    with redis_with(secrets / "redis.conf") as port:
        url = settings.cache.redis_url.replace("@redis:6379", f"@127.0.0.1:{port}")
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        with (
            redis.Redis(port=port) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


@contextmanager
def redis_with(config: Path) -> Iterator[int]:
    """Run Redis with a configuration, and yield its port."""
    port = free_port()
    command = ["redis-server", str(config), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert any("Ready to accept" in line for line in process.stdout)
            yield port
        finally:
            process.terminate()
            process.wait(GIVE_UP_S)
