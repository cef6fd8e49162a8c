"""Testcontainers for Python: its ways to wait, networks, copies, logs and Compose, as its users write them."""

import os
import pathlib
import re
import socket
import threading

from docker.errors import APIError
from testcontainers.compose import DockerCompose
from testcontainers.core import wait_strategies as wait
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

SCRATCH = pathlib.Path(os.environ["SCRATCH"])
SERVE = (
    "mkdir -p /www && echo hello > /www/index.html && echo starting && echo ready >&2 "
    "&& exec httpd -f -p 8080 -h /www"
)


def web():
    return DockerContainer("busybox").with_command(["sh", "-c", SERVE]).with_exposed_ports(8080)


def idle():
    return DockerContainer("busybox").with_command("sleep 600")


def get(c):
    with socket.create_connection((c.get_container_host_ip(), int(c.get_exposed_port(8080))), 10) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: s.recv(4096), b"")).split(b"\r\n\r\n", 1)[1]


def ports_and_logs():
    with web() as c:
        wait_for_logs(c, "ready", timeout=30)
        out, err = c.get_logs()
        assert (out, err) == (b"starting\n", b"ready\n"), (out, err)
        assert get(c) == b"hello\n"
        ran = c.exec(["sh", "-c", "echo in; exit 3"])
        assert (ran.exit_code, ran.output) == (3, b"in\n"), ran


def waits():
    for strategy in [
        wait.LogMessageWaitStrategy("ready"),
        wait.LogMessageWaitStrategy(re.compile("star.ing")),
        wait.HttpWaitStrategy(8080).for_status_code(200),
        wait.PortWaitStrategy(8080),
        wait.ContainerStatusWaitStrategy(),
        wait.CompositeWaitStrategy(wait.LogMessageWaitStrategy("ready"), wait.PortWaitStrategy(8080)),
    ]:
        with web().waiting_for(strategy.with_startup_timeout(30)):
            pass
    check = {"test": ["CMD-SHELL", "test -f /www/index.html"], "interval": 10**8 * 2, "retries": 20}
    healthy = wait.HealthcheckWaitStrategy().with_startup_timeout(30)
    with web().with_kwargs(healthcheck=check).waiting_for(healthy):
        pass


def networks():
    with Network() as network:
        served = web().with_network(network).with_network_aliases("one", "two")
        with served.waiting_for(wait.LogMessageWaitStrategy("ready")):
            with idle().with_network(network) as client:
                for name in ("one", "two"):
                    assert client.exec(["wget", "-qO-", f"http://{name}:8080/"]).output == b"hello\n"


def files_and_options():
    (SCRATCH / "d").mkdir(exist_ok=True)
    (SCRATCH / "d" / "x").write_text("x")
    c = (
        idle()
        .with_env("A", "b c")
        .with_envs(Q="1")
        .with_name("named")
        .with_volume_mapping(str(SCRATCH), "/m", "ro")
        .with_tmpfs_mount("/mem", "size=10m")
        .with_copy_into_container(b"data", "/copied/file", 0o600)
        .with_copy_into_container(SCRATCH / "d", "/copied")
    )
    with c:
        told = c.exec(["sh", "-c", "echo $A$Q; cat /copied/file /copied/d/x /m/d/x; stat -c %a /copied/file"])
        assert told.output == b"b c1\ndataxx600\n", told
        assert c.exec(["touch", "/m/new"]).exit_code != 0
        c.copy_into_container(b"later", "/later", 0o644)
        c.copy_from_container("/later", SCRATCH / "back")
        assert (SCRATCH / "back").read_bytes() == b"later"


def the_host():
    with socket.create_server(("0.0.0.0", 0)) as server:

        def answer():
            with server.accept()[0] as s:
                s.recv(4096)
                s.sendall(b"HTTP/1.0 200 OK\r\n\r\nfrom the host")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with idle().with_kwargs(extra_hosts={"host.docker.internal": "host-gateway"}) as c:
            url = f"http://host.docker.internal:{server.getsockname()[1]}/"
            assert c.exec(["wget", "-qO-", url]).output == b"from the host"
        thread.join(10)


def refusals():
    for image, command, status in [("busybox", "nonesuch", 400), ("127.0.0.1:1/nobody/has:1", "true", 500)]:
        try:
            DockerContainer(image).with_command(command).start()
        except APIError as e:
            assert e.status_code == status, e
        else:
            raise AssertionError(image)


def compose():
    if "WITH_COMPOSE" not in os.environ:
        return
    (SCRATCH / "compose.yaml").write_text(
        f"""
services:
  web:
    image: busybox
    command: ["sh", "-c", "{SERVE}"]
    ports: ["8080"]
    stop_grace_period: 0s
    healthcheck: {{test: ["CMD", "test", "-f", "/www/index.html"], interval: 1s}}
  once:
    image: busybox
    command: ["sh", "-c", "echo once; sleep 600"]
    stop_grace_period: 0s
"""
    )
    with DockerCompose(SCRATCH, wait=True) as up:
        host, port = up.get_service_host("web", 8080), up.get_service_port("web", 8080)
        up.wait_for(f"http://{host}:{port}/")
        out, _, code = up.exec_in_container(["echo", "x"], "web")
        assert (out.strip(), code) == ("x", 0)
        assert "once" in up.get_logs("once")[0]
        assert {c.Service for c in up.get_containers()} == {"web", "once"}


for part in (ports_and_logs, waits, networks, files_and_options, the_host, refusals, compose):
    part()
print("story told")
