"""A bundle over ssh, to an sshd on the loopback that the test starts with keys and a port of its own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drsn_edge.bundle import Bundle, NewFile
from drsn_edge.cli import app
from drsn_edge.errors import HashMismatch, MissingDependency, UsageError
from drsn_edge.pipeline.receive import receive
from drsn_edge.pipeline.remote import Remote, require_programs

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Device:
    """The loopback as another machine: how ssh gets there, its folder, and its drsn-edge."""

    config: Path
    folder: Path
    program: Path

    def push(self, bundle: Path, *options: object, target: str | None = None) -> Any:
        args = ["push", bundle, target or f"device:{self.folder}", "--ssh-config", self.config,
                "--remote-program", self.program, "--no-build", *options]  # fmt: skip
        return CliRunner().invoke(app, [str(arg) for arg in args])


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    for name in ("ssh", "ssh-keygen", "rsync"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    if SSHD is None:
        pytest.skip("needs sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which sshd wants before it gives up its rights
    home = tmp_path_factory.mktemp("an ssh device")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = _key(home / "host key")
    (home / "authorized").write_text(_key(home / "my key"))
    (home / "known").write_text(f"[127.0.0.1]:{port} {host}")
    (home / "sshd.conf").write_text(
        f'Port {port}\nListenAddress 127.0.0.1\nHostKey "{home}/host key"\nAuthorizedKeysFile "{home}/authorized"\n'
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
    )
    (home / "ssh.conf").write_text(
        f'Host device\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile "{home}/my key"\n  IdentitiesOnly yes\n'
        f'  UserKnownHostsFile "{home}/known"\n'
    )
    program = home / "remote bin" / "drsn-edge"
    program.parent.mkdir()
    call = f"PYTHONPATH={shlex.quote(str(ROOT))} OMP_NUM_THREADS=1 exec {shlex.quote(sys.executable)} -m drsn_edge"
    program.write_text(f'#!/bin/sh\n{call} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", home / "sshd.conf"], stderr=subprocess.PIPE, text=True)
    try:
        made = Device(home / "ssh.conf", home / "bundles of $HOME 'and' more", program)
        words = ["ssh", "-F", str(made.config), "-o", "BatchMode=yes", "device", "true"]
        deadline = time.monotonic() + 60
        while (done := subprocess.run(words, capture_output=True, text=True, check=False)).returncode:
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                pytest.skip(f"no sshd can run here: {done.stderr.strip()}; {server.communicate()[1][-300:]}")
            time.sleep(0.2)
        yield made
    finally:
        server.kill()
        server.communicate()


def hidden(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.name.startswith("."))


@pytest.mark.slow
def test_a_bundle_arrives_and_is_verified_there(workshop: Any, tmp_path: Path, device: Device) -> None:
    """Paths with spaces, quotes and a dollar; then another bundle of the same name."""
    here = workshop.copy(tmp_path).rename(tmp_path / "a pump's.drsn")
    said = device.push(here, "--json")
    assert said.exit_code == 0, said.output
    value = json.loads(said.stdout)
    there = device.folder / "a pump's.drsn"
    assert value["bundle"] == str(there)
    assert value["passed"] is True
    assert Bundle.open(there).digest == Bundle.open(here).digest == value["digest"]
    Bundle.open(there).check()
    assert {step["command"]: step["exit_code"] for step in value["steps"]}["verify"] == 0
    doctor, verify = (step["result"] for step in value["steps"])
    assert {"subject", "level", "found", "fix"} == set(doctor["findings"][0])
    assert verify["passed"] is True
    assert hidden(device.folder) == []
    changed = Bundle.open(here).update({"report.json": NewFile(b"{}", "report")})
    assert device.push(here).exit_code == 0
    assert Bundle.open(there).digest == changed.digest
    assert hidden(device.folder) == []


@pytest.mark.slow
def test_a_transfer_that_breaks_off_leaves_the_old_bundle(
    workshop: Any, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = workshop.copy(tmp_path).rename(tmp_path / "broken.drsn")
    assert device.push(here).exit_code == 0
    old = Bundle.open(device.folder / "broken.drsn").digest
    new = Bundle.open(here).update({"report.json": NewFile(b'{"new": 1}', "report")}).digest
    real, fake = shutil.which("rsync"), tmp_path / "bin" / "rsync"
    fake.parent.mkdir()
    # All but the manifest arrives, and then the line is dead.
    fake.write_text(f'#!/bin/sh\n{real} --exclude manifest.json "$@"\necho "connection lost" >&2\nexit 30\n')
    fake.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
        said = device.push(here)
    assert said.exit_code == 3
    assert "broke off" in said.stderr
    assert "connection lost" in said.stderr
    assert "it goes on where it was" in said.stderr
    there = Bundle.open(device.folder / "broken.drsn")
    there.check()
    assert there.digest == old
    assert hidden(device.folder) == [".broken.drsn.incoming"]
    assert device.push(here).exit_code == 0
    assert Bundle.open(device.folder / "broken.drsn").digest == new
    assert hidden(device.folder) == []


@pytest.mark.slow
def test_what_fails_there_is_the_exit_code_here(workshop: Any, tmp_path: Path, device: Device) -> None:
    said = device.push(workshop.copy(tmp_path), "--require", "engine", "--json")
    assert said.exit_code == 3
    value = json.loads(said.stdout)
    assert value["passed"] is False
    assert value["steps"][-1]["result"]["error"] == "MissingDevice"


def test_a_host_whose_key_is_not_known_is_refused(workshop: Any, tmp_path: Path, device: Device) -> None:
    text = device.config.read_text()
    (tmp_path / "ssh.conf").write_text(text.replace("/known", "/nobody"))
    stranger = Device(tmp_path / "ssh.conf", device.folder, device.program)
    said = stranger.push(workshop.bundle)
    assert said.exit_code == 3
    assert "Host key verification failed" in said.stderr
    assert "compare the fingerprint" in said.stderr
    (tmp_path / "ssh.conf").write_text(text.replace("/my key", "/host key"))
    said = stranger.push(workshop.bundle)
    assert said.exit_code == 3
    assert "ssh-copy-id" in said.stderr


def test_no_drsn_edge_there(workshop: Any, device: Device) -> None:
    said = Device(device.config, device.folder, Path("/nowhere/drsn-edge")).push(workshop.bundle)
    assert said.exit_code == 3
    assert "/nowhere/drsn-edge was not found on device" in said.stderr
    assert "--remote-program" in said.stderr


@pytest.mark.slow
def test_something_else_in_its_place_is_left_alone(workshop: Any, device: Device) -> None:
    place = device.folder / "elsewhere" / workshop.bundle.name
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("mine")
    said = device.push(workshop.bundle, target=f"device:{place.parent}")
    assert said.exit_code == 4
    assert (place / "mine.txt").read_text() == "mine"


# --- without a network


@pytest.mark.parametrize(
    "target", ["cw.drsn", ":x", "host:", "-oProxyCommand=x:dir", "me@-x:dir", "a b:dir", "host:a\nb", "[::1", "a;b:c"]
)
def test_targets_that_cannot_be(target: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)target is not understood.*user@host:DIR"):
        Remote.parse(target)


@pytest.mark.parametrize(
    ("target", "host", "folder"),
    [
        ("me@10.0.0.7:/srv/a b", "me@10.0.0.7", "/srv/a b"),
        ("jetson:~/x", "jetson", "./x"),
        ("jetson:-rf", "jetson", "./-rf"),
        ("me@[fe80::1%eth0]:x:y", "me@[fe80::1%eth0]", "./x:y"),
        ("[::1]:.", "[::1]", "./."),
    ],
)
def test_targets(target: str, host: str, folder: str) -> None:
    remote = Remote.parse(target)
    assert (remote.host, remote.folder) == (host, folder)


def test_missing_programs(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (("ssh", "openssh-client"), ("rsync", "rsync")):
        monkeypatch.setattr(shutil, "which", lambda word, name=name: None if word == name else f"/bin/{word}")
        with pytest.raises(MissingDependency, match=rf"(?s)needs the program {name}.*apt install {package}"):
            require_programs()
        said = CliRunner().invoke(app, ["push", str(workshop.bundle), "host:dir"])
        assert said.exit_code == 3


def test_receive_checks_before_it_replaces(workshop: Any, tmp_path: Path) -> None:
    incoming, place = workshop.copy(tmp_path), tmp_path / "cw.drsn"
    digest = Bundle.open(incoming).digest
    with pytest.raises(HashMismatch, match="pinned"):
        receive(incoming, place, expect_digest="0" * 64)
    with pytest.raises(UsageError, match="at its place already"):
        receive(incoming, tmp_path / "x" / ".." / incoming.name)
    damaged = Path(shutil.copytree(incoming, tmp_path / "damaged.drsn"))
    (damaged / "golden.npz").write_bytes(b"half")
    with pytest.raises(HashMismatch, match=r"golden\.npz"):
        receive(damaged, place)
    assert not place.exists()
    result = receive(incoming, place, expect_digest=digest)
    assert (result.digest, result.replaced, incoming.exists()) == (digest, False, False)
    again = CliRunner().invoke(app, ["receive", str(place), str(tmp_path / "two.drsn"), "--json"])
    assert json.loads(again.stdout)["digest"] == digest
