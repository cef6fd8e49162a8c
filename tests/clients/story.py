"""The small story with docker-py: run, logs, exec with a socket, stats, events, errors."""

import docker
from docker.errors import APIError, ImageNotFound, NotFound

client = docker.from_env()
assert client.ping()
assert client.version()["Os"] == "linux"
assert client.info()["Containers"] == 0
assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
try:
    client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    raise SystemExit("no error")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3 and b"bad" in error.stderr, error
c = client.containers.run("busybox", ["sh", "-c", "echo ready; sleep 600"], detach=True, name="py", labels={"k": "v"}, ports={"80/tcp": None})
c.reload()
assert c.status == "running" and int(c.ports["80/tcp"][0]["HostPort"]) >= 1024, c.ports
for line in c.logs(stream=True, follow=True):
    assert line == b"ready\n", line
    break
code, output = c.exec_run(["sh", "-c", "echo in; echo er >&2; exit 5"], demux=True)
assert code == 5 and output == (b"in\n", b"er\n"), (code, output)
code, output = c.exec_run("tty", tty=True)
assert output.startswith(b"/dev/pts/"), output
assert [x.name for x in client.containers.list(filters={"label": "k=v"})] == ["py"]
stats = c.stats(stream=False)
assert stats["pids_stats"]["current"] >= 1 and stats["name"] == "/py", stats
assert any("sleep 600" in " ".join(p) for p in c.top()["Processes"])
sock = client.api.attach_socket(c.id, params={"stdin": 1, "stdout": 1, "stream": 1})
sock.close()
for wrong, kind in ((lambda: client.containers.get("nobody"), NotFound), (lambda: client.images.get("nobody"), ImageNotFound)):
    try:
        wrong()
        raise SystemExit("no error")
    except kind as error:
        assert error.response.status_code == 404 and "nobody" in error.explanation, error
try:
    client.containers.create("busybox", "true", name="py")
    raise SystemExit("no error")
except APIError as error:
    assert error.response.status_code == 409 and "already in use" in error.explanation
c.rename("py2")
c.pause()
c.unpause()
c.stop(timeout=0)
assert c.wait()["StatusCode"] == 137
c.remove()
events = [e["Action"] for e in client.events(since=0, until=__import__("time").time(), decode=True) if e["Type"] == "container"]
for action in ("create", "start", "die", "rename", "pause", "unpause", "stop", "destroy"):
    assert action in events, (action, events)
assert client.images.list()[0].tags == ["busybox:latest"]
assert client.volumes.list() == []
assert {"bridge", "host", "none"} <= {n.name for n in client.networks.list()}
print("story told")
