"""What the doctor says of a bundle on this machine: is it whole, is what it needs here, do its engines fit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from drsn_edge.bundle import Bundle
from drsn_edge.errors import DrsnError
from drsn_edge.pipeline.build_plan import plan_build
from drsn_edge.pipeline.engine_check import outdated_engines
from drsn_edge.pipeline.engine_notes import engine_info
from drsn_edge.pipeline.finding import Finding, Level
from drsn_edge.pipeline.variants import engine_reasons
from drsn_edge.runtime.preflight import Here
from drsn_edge.runtime.verification import unverified


def bundle_findings(path: Path, here: Here) -> Iterator[Finding]:
    """Findings about a bundle.

    Raises:
        InputError: No bundle, or a damaged one.
        HashMismatch: A file of it is another one.
    """
    bundle = Bundle.open(path)
    bundle.check()
    yield Finding("bundle", "ok", f"{len(bundle.files)} files, all as listed; sha256 {bundle.digest}")
    yield from _builder(bundle)
    yield from _room(bundle)
    if not bundle.engines():
        yield Finding("engine", "missing", "the bundle holds none", f"drsn-edge build {path}")
    yield from _engines(bundle, here)


def _builder(bundle: Bundle) -> Iterator[Finding]:
    """For each precision of the bundle, whether an engine could be built here and of which graph."""
    for precision in bundle.precisions:
        subject = f"builder for {precision}"
        try:
            (plan,) = plan_build((precision,))
        except DrsnError as error:
            yield Finding(subject, "missing", error.got or error.what, error.hint or "build it on the device")
            continue
        if plan.graph not in bundle.files:
            yield Finding(subject, "missing", f"needs {plan.graph}, which the bundle lacks", "export it again")
        else:
            yield Finding(subject, "ok", plan.summary)


def _room(bundle: Bundle) -> Iterator[Finding]:
    """A build writes the bundle a second time beside the first before it exchanges them."""
    folder = bundle.path.resolve()
    closed = [str(item) for item in (folder, folder.parent) if not os.access(item, os.W_OK)]
    size = sum(entry.size for entry in bundle.files.values())
    needed, free = 2 * size + (64 << 20), shutil.disk_usage(folder).free
    if closed:
        yield Finding(
            "bundle folder", "problem", f"no right to write into {', '.join(closed)}",
            f"sudo chown -R $USER {folder}, or copy it to a folder of your own",
        )  # fmt: skip
    elif free < needed:
        words = f"{free / 1e6:.0f} MB free, a build needs {needed / 1e6:.0f} MB"
        yield Finding("bundle folder", "problem", words, "free some space")
    else:
        yield Finding("bundle folder", "ok", f"writable, {free / 1e9:.0f} GB free")


def _engines(bundle: Bundle, here: Here) -> Iterator[Finding]:
    infos = {key: engine_info(bundle, key) for key in bundle.engines()}
    old = outdated_engines(bundle, here)
    reasons = {key: engine_reasons(bundle, key, here) for key in bundle.engines()}
    # A bundle may hold an engine for each of several devices: one that fits is enough.
    misfit: Level = "missing" if not all(reasons.values()) else "problem"
    for key, found in reasons.items():
        subject = f"engine {key}"
        if key in old:
            fix = f"drsn-edge build {bundle.path} --rebuild"
            words = f"{old[key][1]}: it was built before an upgrade"
            yield Finding(subject, misfit if found else "missing", "; ".join([words, *found]), fix)
        elif found:
            # Without a GPU nothing that is built here could run here either.
            has_gpu = here.device.device is not None
            fix = f"drsn-edge build {bundle.path}" if has_gpu else "run it on the device it is for"
            yield Finding(subject, misfit, "; ".join(found), fix)
        elif (why := unverified(infos[key], here)) is not None:
            fix = f"drsn-edge verify {bundle.path} --mark"
            yield Finding(subject, "missing", f"fits this machine, but {why}", fix)
        else:
            yield Finding(subject, "ok", "fits this machine and is verified on it")
