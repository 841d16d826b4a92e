"""A Ceph of one monitor and one OSD in memory, with its S3 gateway: a real server for the tests, where it is installed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores

PROGRAMS = (
    "ceph-mon", "ceph-osd", "monmaptool", "ceph-authtool", "ceph", "radosgw", "radosgw-admin",
)  # fmt: skip
KEYS = {
    "mon.": ("mon",),
    "client.admin": ("mon", "osd", "mgr"),
    "osd.0": ("mon", "osd"),
}
START_SECONDS = 90
CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}/0]
run dir = {folder}
admin socket = {folder}/$name.sock
log file = {folder}/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
keyring = {folder}/keyring
osd objectstore = memstore
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon initial members = a
mon warn on pool no redundancy = false
ms bind ipv6 = false
setuser match path = {folder}
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw region root pool = .rgw.root
"""


@contextlib.contextmanager
def radosgw(folder: Path) -> Iterator[str]:
    """The endpoint of an S3 gateway for the user of `stores.aws_environment`; skips where Ceph is not installed."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not on PATH (Debian: radosgw ceph-mon ceph-osd ceph-common)"
        )
    conf = folder / "ceph.conf"
    gateway, port = stores.free_port(), stores.free_port()
    fsid = str(uuid.uuid4())
    conf.write_text(CONFIGURATION.format(folder=folder, fsid=fsid, port=port, gateway=gateway))
    servers: list[subprocess.Popen[bytes]] = []
    try:
        _start(conf, folder, fsid, port, servers)
        _run(
            "radosgw-admin", conf, "user", "create", "--uid=tester", "--display-name=tester",
            "--access-key=tester", "--secret=secret",
        )  # fmt: skip
        servers.append(_serve("radosgw", conf, "-f", "-n", "client.admin"))
        stores.wait_for_port(gateway, servers[-1], START_SECONDS)
        yield f"http://127.0.0.1:{gateway}"
    finally:
        for server in reversed(servers):
            server.kill()
            server.wait()


def _start(
    conf: Path, folder: Path, fsid: str, port: int, servers: list[subprocess.Popen[bytes]]
) -> None:
    """The monitor, and an OSD that keeps everything in memory."""
    keyring = str(folder / "keyring")
    for name, rights in KEYS.items():
        caps = [word for right in rights for word in ("--cap", right, "allow *")]
        create = [] if Path(keyring).exists() else ["--create-keyring"]
        _run("ceph-authtool", conf, *create, keyring, "--gen-key", "-n", name, *caps)
    monmap = folder / "monmap"
    address = f"[v2:127.0.0.1:{port}/0]"
    _run("monmaptool", conf, "--create", "--addv", "a", address, "--fsid", fsid, str(monmap))
    _run("ceph-mon", conf, "--mkfs", "-i", "a", "--monmap", str(monmap), "--keyring", keyring)
    servers.append(_serve("ceph-mon", conf, "-f", "-i", "a"))
    identity = str(uuid.uuid4())
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            _run("ceph", conf, "--connect-timeout", "5", "osd", "new", identity)
            break
        except subprocess.CalledProcessError:
            assert time.monotonic() < deadline, "the monitor does not answer"
            time.sleep(0.5)
    (folder / "osd").mkdir()
    _run("ceph-osd", conf, "-i", "0", "--mkfs", "--osd-uuid", identity)
    servers.append(_serve("ceph-osd", conf, "-f", "-i", "0"))


def _run(program: str, conf: Path, *arguments: str) -> None:
    subprocess.run(
        [program, "-c", str(conf), *arguments],
        check=True, capture_output=True, timeout=START_SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _serve(program: str, conf: Path, *arguments: str) -> subprocess.Popen[bytes]:
    log = (conf.parent / f"{program}.out").open("wb")
    with log:
        return subprocess.Popen(
            [program, "-c", str(conf), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
