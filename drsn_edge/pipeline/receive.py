"""`receive`: put a bundle that was copied to this machine into its place, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsn_edge.bundle import Bundle, check_bundle_output
from drsn_edge.errors import UsageError
from drsn_edge.files import replace_folder


@dataclass(frozen=True)
class ReceiveResult:
    """What `receive` did.

    Attributes:
        bundle: Where it is now.
        digest: SHA-256 of its manifest.
        replaced: Whether there was another one.
    """

    bundle: Path
    digest: str
    replaced: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format_version": 1, "bundle": str(self.bundle), "digest": self.digest, "replaced": self.replaced}


def receive(incoming: Path, path: Path, *, expect_digest: str | None = None) -> ReceiveResult:
    """Check every file of a copied bundle and exchange it with what is at its place.

    Args:
        incoming: The copy, on the same file system; gone afterwards.
        path: `NAME.drsn`; one that is there is replaced in one step.
        expect_digest: SHA-256 that the manifest must have.

    Raises:
        InputError: The copy is no bundle, or not whole.
        HashMismatch: A file is another one, or the manifest is.
        UsageError: Something else than a bundle is at the place, or both are the same.
    """
    bundle = Bundle.open(incoming, expect_digest=expect_digest)
    bundle.check()
    if path.resolve() == incoming.resolve():
        raise UsageError("the copy is at its place already", got=incoming, expected="two names")
    check_bundle_output(path, force=True)
    replaced = path.exists()
    replace_folder(incoming, path)
    return ReceiveResult(path, bundle.digest, replaced)
