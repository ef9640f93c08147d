"""The bundle `NAME.drsn/`: the only thing that travels to the device. Every file has its hash in `manifest.json`.

The hashes find damage and mix-ups. Against forgery, pin the manifest itself: `Bundle.open(path, expect_digest=...)`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import (
    check_output,
    dump_json,
    new_folder,
    replace_folder,
    sha256_bytes,
    sha256_file,
    work_folder,
    write_bytes,
)
from drsn_edge.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    ROLES,
    FileEntry,
    NewFile,
    is_bundle,
    mismatch,
    own_path,
    present,
    read_manifest,
    safe_name,
)
from drsn_edge.signals.contract import SignalContract

__all__ = [
    "BENCH", "CALIBRATION", "FORMAT_VERSION", "GOLDEN", "MANIFEST", "REPORT", "REPORT_DATA", "ROLES", "SPLIT",
    "WEIGHTS", "Bundle", "FileEntry", "NewFile", "check_bundle_output", "fill_folder", "graph_name", "write_bundle",
]  # fmt: skip

CALIBRATION, GOLDEN, SPLIT, WEIGHTS = "calibration.json", "golden.npz", "split.json", "model.safetensors"
REPORT, REPORT_DATA, BENCH = "report.html", "report.json", "bench.json"


def graph_name(precision: str, *, probe: bool = False) -> str:
    """File name of a graph: `model.int8.onnx`, `model.int8.probe.onnx`."""
    return f"model.{precision}.probe.onnx" if probe else f"model.{precision}.onnx"


class Bundle:
    """A bundle on disk. Reading a file checks its hash first, every time."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    @classmethod
    def open(cls, path: Path | str, *, expect_digest: str | None = None) -> Bundle:
        """Read a manifest; no other file is touched yet.

        Args:
            path: The folder.
            expect_digest: SHA-256 that the manifest must have.

        Raises:
            InputError: No bundle, a damaged manifest, another format version, or file names that leave the folder.
            HashMismatch: The manifest is not the one that was pinned.
        """
        folder = Path(path)
        manifest, digest = read_manifest(folder, expect_digest=expect_digest)
        return cls(folder, manifest, digest)

    @cached_property
    def files(self) -> dict[str, FileEntry]:
        """Every file but the manifest, by its name relative to the folder."""
        return {
            name: FileEntry(entry["sha256"], entry["size"], entry["role"])
            for name, entry in self.manifest["files"].items()
        }

    @cached_property
    def contract(self) -> SignalContract:
        """What a window is."""
        return SignalContract.from_json(self.manifest["contract"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return tuple(str(label) for label in self.manifest["labels"])

    @property
    def units(self) -> tuple[str, ...]:
        """Module paths of the shrinkage units, in order."""
        return tuple(str(unit) for unit in self.manifest["model"]["units"])

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that it holds a graph of, in the order fp32, fp16, int8."""
        return tuple(name for name in ("fp32", "fp16", "int8") if graph_name(name) in self.files)

    def engines(self) -> dict[str, str]:
        """Plan files by their key, the folder under `engines/`."""
        return {PurePosixPath(name).parent.name: name for name, entry in self.files.items() if entry.role == "engine"}

    def file(self, name: str) -> Path:
        """Path of a file whose hash has just been checked.

        Raises:
            InputError: Not listed, or absent.
            HashMismatch: Other bytes than listed.
        """
        path, entry = self._present(name)
        digest = sha256_file(path)
        if digest != entry.sha256:
            raise mismatch(path, f"sha256 {digest}", entry)
        return path

    def read(self, name: str) -> bytes:
        """Bytes of a file, checked: what was hashed is what is returned.

        Raises:
            InputError: Not listed, or absent.
            HashMismatch: Other bytes than listed.
        """
        path, entry = self._present(name)
        data = path.read_bytes()
        if sha256_bytes(data) != entry.sha256:
            raise mismatch(path, f"sha256 {sha256_bytes(data)}", entry)
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object from a checked file."""
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name} is not JSON", got=error, expected="a JSON object") from None
        if not isinstance(value, dict):
            raise InputError(f"{name} has the wrong shape", got=type(value).__name__, expected="a JSON object")
        return value

    def check(self) -> None:
        """Check every file.

        Raises:
            HashMismatch, InputError: The first file that is not as listed.
        """
        for name in self.files:
            self.file(name)

    def _present(self, name: str) -> tuple[Path, FileEntry]:
        if name not in self.files:
            raise InputError(
                f"the bundle has no {name}", got=self.path, expected=", ".join(sorted(self.files)) or "files"
            )
        return present(self.path, name, self.files[name]), self.files[name]

    def update(self, files: Mapping[str, NewFile], *, remove: tuple[str, ...] = ()) -> Bundle:
        """Add or replace files, the manifest last.

        A process killed on the way leaves files that no manifest lists: they are never loaded, and the next update
        writes over them. A listed file that is replaced would not match the old manifest for a moment, so files go
        into place only under new names or when the whole bundle can be exchanged at once.

        Returns:
            The bundle as it is now.

        Raises:
            InputError: Somebody else has changed it since it was opened, or a name leaves the folder.
        """
        current = Bundle.open(self.path)
        if current.digest != self.digest:
            raise InputError(
                "the bundle was changed while it was being added to",
                got=f"sha256 {current.digest}",
                expected=f"sha256 {self.digest}, as it was opened",
                hint="let the other command end, then run this one again",
            )
        entries = {name: entry for name, entry in self.manifest["files"].items() if name not in remove}
        entries |= {str(own_path(self.path, name)): item.to_json() for name, item in files.items()}
        manifest = dump_json({**self.manifest, "files": entries}).encode()
        if not any(name in self.files for name in (*files, *remove)):
            for name, item in files.items():
                write_bytes(self.path / name, item.data)
            write_bytes(self.path / MANIFEST, manifest)
            return Bundle.open(self.path)
        with work_folder(self.path) as folder:
            work = folder / self.path.name
            shutil.copytree(self.path, work, symlinks=True)
            for name in remove:
                (work / own_path(work, name)).unlink(missing_ok=True)
            for name, item in files.items():
                write_bytes(work / name, item.data)
            write_bytes(work / MANIFEST, manifest)
            replace_folder(work, self.path)
        return Bundle.open(self.path)


def write_bundle(
    path: Path, manifest: Mapping[str, Any], files: Mapping[str, NewFile], *, force: bool = False
) -> Bundle:
    """Write a bundle under a temporary name and rename it: a killed process leaves the old one or the new one.

    Args:
        path: The folder, `NAME.drsn`.
        manifest: Everything but `files` and `format_version`.
        files: What goes into it.
        force: Replace what is at `path`.

    Raises:
        UsageError: `path` exists and `force` is false, or it is something else than a bundle.
    """
    check_bundle_output(path, force=force)
    with new_folder(path, force=force) as work:
        fill_folder(work, manifest, files)
    return Bundle.open(path)


def fill_folder(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, NewFile]) -> Bundle:
    """Write a bundle's files into a folder that is not under its final name yet."""
    entries = {str(safe_name(name)): item.to_json() for name, item in files.items()}
    for name, item in files.items():
        write_bytes(folder / name, item.data)
    complete = {**manifest, "format_version": FORMAT_VERSION, "files": entries}
    write_bytes(folder / MANIFEST, dump_json(complete).encode())
    return Bundle.open(folder)


def check_bundle_output(path: Path, *, force: bool) -> None:
    """Refuse a name that is taken; with `force`, one that is taken by something else than a bundle.

    Raises:
        UsageError: It is.
    """
    check_output(path, force=force)
    if path.exists() and not is_bundle(path):
        raise UsageError(
            "--force replaces bundles only",
            got=f"{path} without {MANIFEST} of a bundle",
            expected="a bundle, or a name that is free",
            hint="remove it yourself, or choose another name",
        )
