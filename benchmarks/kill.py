"""kill -9 at random moments of `export` and `build`: the old bundle or a new one, never half of one.

Protocol: a process that has loaded everything forks a child, the child runs the command on a bundle that exists, and
gets SIGKILL after a random part of the time that a whole run takes. Then the bundle is opened and every file held
against the manifest; its digest is the one from before, or that of a finished command. At the end one run is left
alone, and nothing hidden may be left beside the bundle or in it. `write` is the same for the writing alone.

    python -m benchmarks.kill [--kills 100] [--commands export build] [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drsn_edge.bundle import Bundle, NewFile, write_bundle
from drsn_edge.errors import DrsnError
from drsn_edge.signals.contract import SignalContract

CONTRACT = SignalContract(sample_rate_hz=1000.0, channels=("a",), window=64)
_CONFIG = {"labels": ["a", "b", "c"], "contract": CONTRACT.to_json(), "network": {"model": "drsn-cw", "classes": 3}}


def write(path: Path) -> None:
    """A bundle of several files, and one of them replaced: what every command ends with."""
    draw = os.urandom(8).hex()
    manifest = {
        "name": draw, "model": {"units": []}, "contract": CONTRACT.to_json(), "labels": ["a", "b"], "tolerances": {},
        "provenance": {},
    }  # fmt: skip
    files = {f"model.{name}.onnx": NewFile(os.urandom(200_000), "graph") for name in ("fp32", "fp16", "int8")}
    bundle = write_bundle(path, manifest, files, force=True)
    bundle = bundle.update({"engines/k/model.fp16.engine": NewFile(os.urandom(200_000), "engine")})
    bundle.update({"model.fp16.onnx": NewFile(os.urandom(200_000), "graph")})


def export_of(folder: Path) -> Callable[[Path], None]:
    """The whole of `export` for a small network, without data; every time of other weights.

    Equal weights give equal bundles, and whether one is the old or the new could not be told.
    """
    import torch

    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network
    from drsn_edge.pipeline.export import ExportOptions, export

    torch.set_num_threads(1)
    config = {**_CONFIG, "network": {**_CONFIG["network"], "widths": [4, 6], "units": [1, 1]}}  # type: ignore[dict-item]
    (folder / "net.json").write_text(json.dumps(config))
    options = ExportOptions(precisions=("fp32", "fp16"), engines=(), report=False)

    def run(path: Path) -> None:
        torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
        network = Network(NetworkConfig("drsn-cw", classes=3, widths=(4, 6), units=(1, 1)), CONTRACT)
        torch.save(network.state_dict(), folder / "net.pt")
        export(folder / "net.pt", out=path, config=folder / "net.json", options=options, force=True)

    return run


def build(path: Path) -> None:
    """An engine, built again over the one that is there."""
    from drsn_edge.pipeline.build import build as build_engines

    build_engines(path, backend="rtx", targets=("sm86",), precisions=("fp16",))


def whole(path: Path) -> str:
    """Digest of a bundle in which every file is as listed."""
    bundle = Bundle.open(path)
    bundle.check()
    return bundle.digest


def leftovers(path: Path) -> list[str]:
    """Hidden files and folders beside a bundle and in it."""
    found = [*path.parent.glob(".*"), *path.rglob(".*")]
    return sorted(str(item.relative_to(path.parent)) for item in found)


def _child(run: Callable[[Path], None], path: Path) -> int:
    """A process that runs it once, as silent as it can be."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            run(path)
        finally:
            os._exit(0)
    return child


def kill(run: Callable[[Path], None], path: Path, kills: int, *, seed: int) -> dict[str, Any]:
    """Kill a command again and again, and look at the bundle every time."""
    draw = random.Random(seed)  # noqa: S311 - a seeded draw, not a secret
    run(path)  # loads what every further one finds loaded
    usual = 0.0
    for _ in range(3):
        began = time.monotonic()
        os.waitpid(_child(run, path), 0)
        usual = max(usual, time.monotonic() - began)
    before, old, new, left, wrong = whole(path), 0, 0, 0, []
    for turn in range(kills):
        wait = draw.uniform(0, 1.1 * usual)
        child = _child(run, path)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left += bool(leftovers(path))
        try:
            now = whole(path)
        except (DrsnError, OSError) as error:
            wrong.append({"kill": turn, "after_s": wait, "problem": str(error)})
            run(path)
            now = whole(path)
        old, new = old + (now == before), new + (now != before)
        before = now
    run(path)
    whole(path)
    return {
        "kills": kills, "usual_s": usual, "old": old, "new": new, "half": wrong, "killed_with_leftovers": left,
        "leftovers_in_the_end": leftovers(path),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--commands", nargs="+", choices=["export", "build", "write"], default=["export", "build"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="only JSON on stdout")
    args = parser.parse_args()
    rows, shown = [], sys.stderr if args.json else sys.stdout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in args.commands:
            path = folder / f"of {command}" / "a.drsn"
            path.parent.mkdir()
            run = {"write": write, "build": build}.get(command) or export_of(folder)
            if command == "build":
                export_of(folder)(path)
            row = {"command": command, **kill(run, path, args.kills, seed=args.seed)}
            rows.append(row)
            print(
                f"{command}: {row['kills']} kills in {row['usual_s']:.2f} s, old {row['old']}, new {row['new']}, "
                f"half {len(row['half'])}, left in the end {row['leftovers_in_the_end']}", file=shown, flush=True,
            )  # fmt: skip
    summary = {
        "kills": sum(row["kills"] for row in rows),
        "half": sum(len(row["half"]) for row in rows),
        "leftovers": sum(len(row["leftovers_in_the_end"]) for row in rows),
    }
    device = {"machine": platform.machine(), "cpus": os.cpu_count(), "numpy": np.__version__}
    print(json.dumps({"device": device, "seed": args.seed, "rows": rows, "summary": summary}, indent=2))
    sys.exit(summary["half"] > 0 or summary["leftovers"] > 0)


if __name__ == "__main__":
    main()
