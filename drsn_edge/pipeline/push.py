"""`push`: a bundle to a device over ssh, built and verified there, and what the device said of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsn_edge.bundle import Bundle
from drsn_edge.errors import DrsnError, InputError
from drsn_edge.pipeline.remote import Remote, require_programs
from drsn_edge.progress import SILENT, Progress


@dataclass(frozen=True)
class RemoteStep:
    """One command on the device.

    Attributes:
        command: `doctor`, `build` or `verify`.
        exit_code: As it ended there.
        result: The JSON that it printed: its result, or its error.
    """

    command: str
    exit_code: int
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"command": self.command, "exit_code": self.exit_code, "result": self.result}


@dataclass(frozen=True)
class PushResult:
    """What `push` did.

    Attributes:
        host: The device.
        bundle: Where the bundle is there.
        digest: SHA-256 of its manifest as it was sent; building adds to it there.
        steps: What was run there, in order.
    """

    host: str
    bundle: str
    digest: str
    steps: tuple[RemoteStep, ...]

    @property
    def exit_code(self) -> int:
        """Of the first step that failed; a doctor that finds no engine before the build is no failure."""
        return next((step.exit_code for step in self.steps if step.command != "doctor" and step.exit_code), 0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": 1,
            "passed": self.exit_code == 0,
            "host": self.host,
            "bundle": self.bundle,
            "digest": self.digest,
            "steps": [step.to_json() for step in self.steps],
        }


def push(
    bundle: Path | str,
    target: str | Remote,
    *,
    precisions: Sequence[str] | None = None,
    build: bool = True,
    require_engine: bool = False,
    progress: Progress = SILENT,
) -> PushResult:
    """Copy a bundle to a device, put it into its place there in one step, build engines and verify them there.

    A transfer that breaks off leaves what was there before, and goes on where it was when it is run again.

    Args:
        bundle: The folder; every hash is checked before anything is sent, and again on the device.
        target: `user@host:DIR`.
        precisions: Of the engines; the remote default otherwise.
        build: Build engines there.
        require_engine: An engine that does not run there is a failure.
        progress: Where steps go.

    Raises:
        UsageError: The target is not understood.
        InputError: The bundle is none, or damaged, here or on arrival.
        MissingDependency: ssh or rsync is missing here, drsn-edge or rsync there.
        MissingDevice: The device cannot be reached, or the transfer broke off.
    """
    remote = target if isinstance(target, Remote) else Remote.parse(target)
    opened = Bundle.open(bundle)
    opened.check()
    require_programs()
    name = opened.path.resolve().name
    incoming, place = f".{name}.incoming", remote.path(name)
    with progress.step(f"copying to {remote.host}") as step:
        remote.run(remote.program_words("--version"))
        remote.run(["mkdir", "-p", remote.folder])
        remote.copy(opened.path, incoming)
        received = _step(
            remote,
            "receive",
            remote.path(incoming),
            place,
            "--expect-digest",
            opened.digest,
            "--json",
            progress=progress,
        )
        step.advance()
    if received.exit_code:
        raise InputError(
            f"{remote.host} does not take the bundle",
            got=f"{received.result.get('what')}: {received.result.get('got')}",
            expected=str(received.result.get("expected")),
            hint=str(received.result.get("hint")),
        )
    wanted = ["--precision", ",".join(precisions)] if precisions else []
    steps = [_step(remote, "doctor", place, "--json", progress=progress)]
    if build:
        steps.append(_step(remote, "build", place, *wanted, "--json", progress=progress))
    needed = ["--require", "engine"] if require_engine else []
    steps.append(_step(remote, "verify", place, *needed, "--json", progress=progress))
    return PushResult(remote.host, place, opened.digest, tuple(steps))


def _step(remote: Remote, command: str, *arguments: str, progress: Progress) -> RemoteStep:
    with progress.step(f"{command} on {remote.host}") as step:
        done = remote.run(remote.program_words(command, *arguments), allowed=range(7))
        step.advance()
    return RemoteStep(command, done.returncode, _document(remote, command, done))


def _document(remote: Remote, command: str, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    try:
        value = json.loads(done.stdout)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DrsnError(
            f"{command} on {remote.host} did not answer with JSON",
            got=(done.stdout.strip() or done.stderr.strip() or f"nothing, exit code {done.returncode}")[-400:],
            expected="one JSON object",
            hint="is it the same version of drsn-edge there?",
        )
    return value
