"""`make image-test`: the image is built without an engine, and run as in production: uid 10001, nothing to write to.

As root, with `buildah` and `mmdebstrap` (apt): a base is bootstrapped from Debian, the Dockerfile is built on it, and
what came out is started in a mount namespace of its own, its root read-only, a tmpfs at /tmp, without capabilities,
against a Redis outside. pip inside the build uses this machine's index; nothing of that is left in the image.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.harness.redis_server import RedisServer, free_port

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "localhost/agentrt-base", "localhost/agentrt:test"
PACKAGES = "python3,python3-venv,ca-certificates"
KEPT = ("index-url", "extra-index-url", "trusted-host", "proxy", "cert", "default-timeout")
"""Settings of pip that a build needs as well."""


def told(step: str, said: object = "") -> None:
    """A line of the log."""
    print(f"{step}: {said}" if said != "" else step, flush=True)


def run(*command: str | Path, **kwargs: Any) -> str:
    """Run a program; its output. Raises `SystemExit` with what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **kwargs)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout.strip()


class Builder:
    """buildah with a storage of its own, which goes with it."""

    def __init__(self, folder: Path) -> None:
        self._env = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        self._global = ("--storage-driver", "vfs", "--root", str(folder / "storage"), "--runroot", str(folder / "run"))

    def __call__(self, *command: str | Path) -> str:
        return run("buildah", *self._global, *command, env=self._env)


def pip_settings(folder: Path) -> list[str]:
    """`--volume` arguments that give the build this machine's settings of pip, for as long as it lasts."""
    found: dict[str, str] = {}
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in KEPT:
            found[key] = str(ast.literal_eval(value))
    extra = [url for url in found.pop("extra-index-url", "").split() if not url.startswith("file:")]
    if extra:
        found["extra-index-url"] = " ".join(extra)
    config = folder / "pip.conf"
    config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in found.items()))
    mounted = [f"{config}:/etc/pip.conf:ro"]
    if "cert" in found:
        mounted.append(f"{found['cert']}:{found['cert']}:ro")
    return [part for volume in mounted for part in ("--volume", volume)]


def bootstrap(buildah: Builder, folder: Path) -> None:
    """The base, from Debian's archive."""
    begun = time.monotonic()
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    mirror = [sources] if sources.is_file() else []
    base = folder / "base.tar"
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", base, *mirror)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, base, "/")
    buildah("commit", "--quiet", container, BASE)
    buildah("rm", container)
    base.unlink()
    told("base", f"bookworm with {PACKAGES}, {time.monotonic() - begun:.0f} s")


def build(buildah: Builder, folder: Path) -> None:
    """The image, from the Dockerfile."""
    begun = time.monotonic()
    # The format of Docker: OCI's has no HEALTHCHECK.
    given = (*pip_settings(folder), "--build-arg", f"BASE_IMAGE={BASE}")
    buildah("build", "--format", "docker", *given, "--tag", IMAGE, ROOT)
    told("image", f"{time.monotonic() - begun:.0f} s")


def configuration(buildah: Builder) -> dict[str, Any]:
    """What the image says of itself."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    assert found["User"] == "10001:10001" and found["StopSignal"] == "SIGTERM", found
    assert not [line for line in found["Env"] if "PIP" in line], "nothing of the build is left"
    return found


_ENTER = """
set -e
mount --make-rprivate /
mount --bind "$ROOTFS" "$ROOTFS"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$ROOTFS/tmp"
mount -t tmpfs -o size=1m,mode=755 tmpfs "$ROOTFS/dev"
for device in null zero urandom; do touch "$ROOTFS/dev/$device"; mount --bind "/dev/$device" "$ROOTFS/dev/$device"; done
mount -t proc proc "$ROOTFS/proc"
mkdir -p "$ROOTFS/app"  # runtimes make the working directory where a builder did not
mount -o remount,bind,ro "$ROOTFS"
exec chroot "$ROOTFS" /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all \
  --inh-caps=-all /usr/bin/env -i -C /app "$@"
"""


def inside(rootfs: Path, env: list[str], *command: str) -> list[str]:
    """A command line that runs a command as production would run the image."""
    return ["unshare", "--mount", "env", f"ROOTFS={rootfs}", "sh", "-c", _ENTER, "sh", *env, *command]


@contextmanager
def pod(rootfs: Path, config: dict[str, Any], redis_url: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A pod from the image: its process, its URL, its environment."""
    port = free_port()
    env = [*config["Env"], f"AGENTRT_REDIS_URL={redis_url}", "AGENTRT_POD=from-image", "AGENTRT_DRAIN_S=0"]
    args = [part.replace("0.0.0.0", "127.0.0.1").replace("8000", str(port)) for part in config["Cmd"]]
    command = inside(rootfs, env, *config["Entrypoint"], *args)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process, f"http://127.0.0.1:{port}", env
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_ready(process: subprocess.Popen[str], url: str) -> None:
    """Until /readyz says 200."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    process.kill()
    raise SystemExit(f"it does not get ready: {process.communicate()[0][-3000:]}")


def confined(pid: int) -> dict[str, str]:
    """What the kernel says of the process: who it is, and whether its root may be written to."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    root = next(mount for mount in reversed(mounts) if mount[4] == "/")
    told = {
        "uid": status["Uid"].split()[1],
        "capabilities": status["CapEff"],
        "no new privileges": status["NoNewPrivs"],
    }
    return {**told, "root": root[5].split(",")[0]}


def check(rootfs: Path, config: dict[str, Any]) -> None:
    """Start it, look at it, have it serve, tell it to go."""
    with RedisServer("--appendonly", "yes") as server, pod(rootfs, config, server.url) as (process, url, env):
        wait_ready(process, url)
        kernel = confined(process.pid)
        expected = {"uid": "10001", "capabilities": "0" * 16, "no new privileges": "1", "root": "ro"}
        assert kernel == expected, kernel
        told("the kernel says", ", ".join(f"{name} {value}" for name, value in kernel.items()))
        probe = subprocess.run(inside(rootfs, env, "touch", "/app/x"), capture_output=True, text=True, check=False)
        assert probe.returncode and "Read-only file system" in probe.stderr, probe
        told("touch /app/x", probe.stderr.strip())
        conversation = ask(url, {"model": "support", "input": "my name is Ada"}, conversation=True)
        answer = ask(url, {"model": "support", "input": "what is my name", "conversation": conversation["id"]})
        assert "Ada" in text(answer), answer
        told("what is my name", text(answer))
        ticket = ask(url, {"model": "support", "input": "open a ticket: printer"})
        assert "printer" in text(ticket), ticket
        told("open a ticket: printer", text(ticket))
        health = [part.replace("8000", url.rpartition(":")[2]) for part in config["Healthcheck"]["Test"][1:]]
        run(*inside(rootfs, env, *health))
        told("HEALTHCHECK", "0")
        doctor = subprocess.run(
            inside(rootfs, env, "agentrt", "doctor", f"--url={url}"), capture_output=True, check=False
        )
        told("agentrt doctor", doctor.returncode)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.returncode in {0, -signal.SIGTERM}, process.returncode
        told("SIGTERM", "left in good order")


def ask(url: str, body: dict[str, Any], *, conversation: bool = False) -> dict[str, Any]:
    """A turn; with `conversation`, in a new one, which is returned."""
    made: dict[str, Any] = {}
    if conversation:
        made = httpx2.post(f"{url}/v1/conversations", json={}, timeout=30).raise_for_status().json()
        body = {**body, "conversation": made["id"]}
    answer: dict[str, Any] = httpx2.post(f"{url}/v1/responses", json=body, timeout=60).raise_for_status().json()
    assert answer["status"] == "completed", answer
    return made or answer


def text(answer: dict[str, Any]) -> str:
    """What was said last."""
    return str(answer["output"][-1]["content"][0]["text"])


def main() -> None:
    """Build and check, in a folder that is deleted afterwards unless it is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for the images; what is there is not built again")
    asked = parser.parse_args()
    missing = [program for program in ("buildah", "mmdebstrap", "unshare") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        raise SystemExit(f"wants root, and apt-get install buildah mmdebstrap; missing: {missing}")
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="agentrt-image-"))
    folder.mkdir(exist_ok=True)
    buildah = Builder(folder)
    try:
        if not buildah("images", "--quiet", "--filter", f"reference={BASE}"):
            bootstrap(buildah, folder)
        if not buildah("images", "--quiet", "--filter", f"reference={IMAGE}"):
            build(buildah, folder)
        config = configuration(buildah)
        container = buildah("from", IMAGE)
        check(Path(buildah("mount", container)), config)
        buildah("umount", container)
        buildah("rm", container)
    finally:
        if asked.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
