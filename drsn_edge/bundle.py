"""The bundle `NAME.drsn/`: the only thing that travels to the device. Every file has its hash in `manifest.json`.

The hashes find damage and mix-ups. Against forgery, pin the manifest itself: `Bundle.open(path, expect_digest=...)`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from drsn_edge.errors import HashMismatch, InputError, UsageError
from drsn_edge.files import check_output, dump_json, new_folder, replace_folder, sha256_bytes, sha256_file, write_bytes
from drsn_edge.signals.contract import SignalContract

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CALIBRATION, GOLDEN, SPLIT, WEIGHTS = "calibration.json", "golden.npz", "split.json", "model.safetensors"
REPORT, REPORT_DATA = "report.html", "report.json"
ROLES = ("graph", "probe", "calibration", "golden", "split", "weights", "report", "engine", "engine-info")
# A manifest is read whole before anything is known about it.
_MANIFEST_LIMIT = 16 << 20


def graph_name(precision: str, *, probe: bool = False) -> str:
    """File name of a graph: `model.int8.onnx`, `model.int8.probe.onnx`."""
    return f"model.{precision}.probe.onnx" if probe else f"model.{precision}.onnx"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file."""

    sha256: str
    size: int
    role: str


@dataclass(frozen=True)
class NewFile:
    """A file to be put into a bundle: its bytes and its role."""

    data: bytes
    role: str


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
        file = folder / MANIFEST
        if not file.is_file():
            raise InputError(
                "this is no bundle",
                got=folder,
                expected=f"a folder NAME.drsn with {MANIFEST}",
                hint="make one with `drsn-edge export RUN --out NAME.drsn`",
            )
        if file.stat().st_size > _MANIFEST_LIMIT:
            raise InputError(
                "the manifest is too large", got=file.stat().st_size, expected=f"at most {_MANIFEST_LIMIT}"
            )
        data = file.read_bytes()
        digest = sha256_bytes(data)
        if expect_digest is not None and digest != expect_digest.lower():
            raise HashMismatch(
                "the manifest is not the one that was pinned",
                got=f"sha256 {digest}",
                expected=expect_digest,
                hint="take the bundle from where the digest was written down",
            )
        try:
            manifest = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError("the manifest is not JSON", got=f"{file}: {error}", expected="a JSON object") from None
        _check_manifest(manifest, file)
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
        entry = self._entry(name)
        path = self.path / name
        if not path.is_file() or path.is_symlink():
            raise InputError("a file of the bundle is absent", got=path, expected="every file that the manifest lists")
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise _mismatch(path, sha256_file(path), entry)
        return path

    def read(self, name: str) -> bytes:
        """Bytes of a file, checked: what was hashed is what is returned.

        Raises:
            InputError: Not listed, or absent.
            HashMismatch: Other bytes than listed.
        """
        entry = self._entry(name)
        path = self.path / name
        if not path.is_file() or path.is_symlink():
            raise InputError("a file of the bundle is absent", got=path, expected="every file that the manifest lists")
        data = path.read_bytes()
        if sha256_bytes(data) != entry.sha256:
            raise _mismatch(path, sha256_bytes(data), entry)
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

    def _entry(self, name: str) -> FileEntry:
        if name not in self.files:
            raise InputError(
                f"the bundle has no {name}", got=self.path, expected=", ".join(sorted(self.files)) or "files"
            )
        return self.files[name]

    def update(self, files: Mapping[str, NewFile], *, remove: tuple[str, ...] = ()) -> Bundle:
        """Add or replace files, the manifest last.

        A process killed on the way leaves files that no manifest lists: they are never loaded, and the next update
        writes over them. A listed file that is replaced would not match the old manifest for a moment, so files go
        into place only under new names or when the whole bundle can be exchanged at once.

        Returns:
            The bundle as it is now.
        """
        entries = {name: entry for name, entry in self.manifest["files"].items() if name not in remove}
        entries |= {name: _entry_json(item) for name, item in files.items()}
        manifest = dump_json({**self.manifest, "files": entries})
        replaced = [name for name in (*files, *remove) if name in self.files]
        if not replaced:
            for name, item in files.items():
                write_bytes(self.path / _safe(name), item.data)
            write_bytes(self.path / MANIFEST, manifest.encode())
            return Bundle.open(self.path)
        work = self.path.with_name(f".{self.path.name}.update")
        shutil.rmtree(work, ignore_errors=True)
        try:
            shutil.copytree(self.path, work, symlinks=True)
            for name in remove:
                (work / _safe(name)).unlink(missing_ok=True)
            for name, item in files.items():
                write_bytes(work / _safe(name), item.data)
            write_bytes(work / MANIFEST, manifest.encode())
            replace_folder(work, self.path)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
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
    for name, item in files.items():
        write_bytes(folder / _safe(name), item.data)
    entries = {name: _entry_json(item) for name, item in files.items()}
    complete = {**manifest, "format_version": FORMAT_VERSION, "files": entries}
    write_bytes(folder / MANIFEST, dump_json(complete).encode())
    return Bundle.open(folder)


def check_bundle_output(path: Path, *, force: bool) -> None:
    """Refuse a name that is taken; with `force`, one that is taken by something else than a bundle.

    Raises:
        UsageError: It is.
    """
    check_output(path, force=force)
    if path.exists() and not (path / MANIFEST).is_file():
        raise UsageError(
            "--force replaces bundles only",
            got=f"{path} without {MANIFEST}",
            expected="a bundle, or a name that is free",
            hint="remove it yourself, or choose another name",
        )


def _entry_json(item: NewFile) -> dict[str, Any]:
    return {"sha256": sha256_bytes(item.data), "size": len(item.data), "role": item.role}


def _safe(name: str) -> PurePosixPath:
    """A relative path that stays in the folder.

    Raises:
        InputError: It does not.
    """
    path = PurePosixPath(name)
    parts = name.split("/")
    if not name or path.is_absolute() or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise InputError(
            "a file name in the manifest leaves the bundle", got=repr(name), expected="a plain relative path"
        )
    return path


def _check_manifest(manifest: Any, file: Path) -> None:
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise InputError("this is no bundle manifest", got=file, expected="an object with format_version")
    if manifest["format_version"] != FORMAT_VERSION:
        raise InputError(
            "the bundle has another format version",
            got=manifest["format_version"],
            expected=FORMAT_VERSION,
            hint="use the drsn-edge that wrote it, or export again",
        )
    wanted = {"model": dict, "contract": dict, "labels": list, "tolerances": dict, "provenance": dict, "files": dict}
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            raise InputError(
                f"the manifest has no usable {key}", got=type(manifest.get(key)).__name__, expected=kind.__name__
            )
    if not isinstance(manifest["model"].get("units"), list):
        raise InputError("the manifest names no units", got=sorted(manifest["model"]), expected="model.units, a list")
    for name, entry in manifest["files"].items():
        _safe(name)
        good = (
            isinstance(entry, dict)
            and isinstance(entry.get("sha256"), str)
            and len(entry["sha256"]) == 64
            and isinstance(entry.get("size"), int)
            and entry["size"] >= 0
            and entry.get("role") in ROLES
        )
        if not good:
            raise InputError(
                f"the manifest's entry for {name} is unusable", got=entry, expected="sha256, size and a known role"
            )


def _mismatch(path: Path, found: str, entry: FileEntry) -> HashMismatch:
    return HashMismatch(
        f"{path.name} is not the file that the manifest lists",
        got=f"{path}: sha256 {found}",
        expected=f"sha256 {entry.sha256}, {entry.size} bytes",
        hint="copy the whole bundle again, or export it again; files of two bundles must not be mixed",
    )
