"""What `manifest.json` of a bundle may say, and whether a file is the one that it lists."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from drsn_edge.errors import HashMismatch, InputError
from drsn_edge.files import sha256_bytes

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ROLES = (
    "graph", "probe", "calibration", "golden", "split", "weights", "report", "engine", "engine-info", "timing-cache",
    "bench",
)  # fmt: skip
# A manifest is read whole before anything is known about it.
MANIFEST_LIMIT = 16 << 20
_FIELDS = {"model": dict, "contract": dict, "labels": list, "tolerances": dict, "provenance": dict, "files": dict}


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

    def to_json(self) -> dict[str, Any]:
        """The manifest's entry.

        Raises:
            InputError: There is no such role.
        """
        if self.role not in ROLES:
            raise InputError("a bundle's file has an unknown role", got=self.role, expected=", ".join(ROLES))
        return {"sha256": sha256_bytes(self.data), "size": len(self.data), "role": self.role}


def safe_name(name: str) -> PurePosixPath:
    """A relative path that stays in the folder, and is not the manifest's own.

    Raises:
        InputError: It does not, or is.
    """
    path = PurePosixPath(name)
    parts = name.split("/")
    if not name or path.is_absolute() or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise InputError(
            "a file name in the manifest leaves the bundle", got=repr(name), expected="a plain relative path"
        )
    if name == MANIFEST:
        raise InputError("the manifest lists itself", got=repr(name), expected="the names of other files")
    return path


def read_manifest(folder: Path, *, expect_digest: str | None = None) -> tuple[dict[str, Any], str]:
    """The manifest of a bundle, checked, and the SHA-256 of its bytes.

    Raises:
        InputError: No bundle, a damaged manifest, another format version, or file names that leave the folder.
        HashMismatch: The manifest is not the one that was pinned.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise InputError(
            "this is no bundle",
            got=folder,
            expected=f"a folder NAME.drsn with {MANIFEST}",
            hint="make one with `drsn-edge export RUN --out NAME.drsn`",
        )
    if file.stat().st_size > MANIFEST_LIMIT:
        raise InputError("the manifest is too large", got=file.stat().st_size, expected=f"at most {MANIFEST_LIMIT}")
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
    check_manifest(manifest, file)
    return manifest, digest


def check_manifest(manifest: Any, where: object) -> None:
    """Refuse a manifest that nothing here wrote.

    Args:
        manifest: As JSON was read.
        where: Names it in messages.

    Raises:
        InputError: Not a manifest, one of another format version, or one with unusable entries.
    """
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise InputError("this is no bundle manifest", got=where, expected="an object with format_version")
    if manifest["format_version"] != FORMAT_VERSION:
        raise InputError(
            "the bundle has another format version",
            got=manifest["format_version"],
            expected=FORMAT_VERSION,
            hint="use the drsn-edge that wrote it, or export again",
        )
    for key, kind in _FIELDS.items():
        if not isinstance(manifest.get(key), kind):
            raise InputError(
                f"the manifest has no usable {key}", got=type(manifest.get(key)).__name__, expected=kind.__name__
            )
    if not isinstance(manifest["model"].get("units"), list):
        raise InputError("the manifest names no units", got=sorted(manifest["model"]), expected="model.units, a list")
    for name, entry in manifest["files"].items():
        safe_name(name)
        if not _usable(entry):
            raise InputError(
                f"the manifest's entry for {name} is unusable",
                got=entry,
                expected=f"sha256, size, and a role out of {', '.join(ROLES)}",
            )


def is_bundle(path: Path) -> bool:
    """Whether a folder is a bundle, be it damaged or of another version: what `--force` may replace.

    Other programs have a file of this name, too.
    """
    manifest = path / MANIFEST
    if not manifest.is_file() or manifest.stat().st_size > MANIFEST_LIMIT:
        return False
    if path.suffix == ".drsn":
        return True
    try:
        value = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"format_version", "contract", "files"} <= {*value}


def own_path(folder: Path, name: str) -> PurePosixPath:
    """`safe_name`, where no link on the way leads out of the folder.

    Raises:
        InputError: One does, or the name itself does.
    """
    path = safe_name(name)
    for part in [path, *path.parents]:
        if part.parts and (folder / part).is_symlink():
            raise InputError(
                "a file of the bundle is a link", got=folder / part, expected="the file itself",
                hint="copy the bundle with its files, not with links to them",
            )  # fmt: skip
    return path


def present(folder: Path, name: str, entry: FileEntry) -> Path:
    """A listed file, if it is there, in the folder itself and of the right size; its hash is not looked at.

    Raises:
        InputError: Absent, or a link.
        HashMismatch: Of another size.
    """
    path = folder / own_path(folder, name)
    if not path.is_file():
        raise InputError("a file of the bundle is absent", got=path, expected="every file that the manifest lists")
    size = path.stat().st_size
    if size != entry.size:
        raise mismatch(path, f"{size} bytes", entry)
    return path


def mismatch(path: Path, found: str, entry: FileEntry) -> HashMismatch:
    """The error for a file that is another one than the manifest lists."""
    return HashMismatch(
        f"{path.name} is not the file that the manifest lists",
        got=f"{path}: {found}",
        expected=f"sha256 {entry.sha256}, {entry.size} bytes",
        hint="copy the whole bundle again, or export it again; files of two bundles must not be mixed",
    )


def _usable(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None
        and type(entry.get("size")) is int
        and entry["size"] >= 0
        and entry.get("role") in ROLES
    )
