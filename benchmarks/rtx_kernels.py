"""Kernels of TensorRT for RTX engines, counted in the builder's layer list; no GPU is needed, and nothing is timed.

Both presets of DRSN-CW with windows of 2048 samples, every precision, every target. Weights are drawn at random and
every INT8 scale is the same: neither changes which kernels there are. A kernel belongs to the first shrinkage unit that
it computes a part of. What the builder refuses, or builds in another precision than asked, is a row with the reason.

    python -m benchmarks.rtx_kernels [--json] [--targets sm86,sm120] [--presets paper,edge] [--precisions fp32,int8]
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from collections import Counter
from typing import Any

import torch

from drsn_edge.calibration.plan import make_plan
from drsn_edge.calibration.quantize import quantize
from drsn_edge.errors import BuildError
from drsn_edge.exporters.precision import to_half
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.exporters.trt_engine import EngineBuild, EngineOptions, build_engine
from drsn_edge.exporters.trt_types import LayerInfo
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.signals.contract import SignalContract

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
PRESETS = ("paper", "edge")
PRECISIONS = ("fp32", "fp16", "int8")
# What the best form of the graph gives, fp32 and fp16, but for sm75, where fully connected layers fuse with nothing. A
# unit of `edge` has a seventh kernel where its first BatchNorm finds none before it to join.
MOST = {"paper": 70, "edge": 78}
MOST_PER_UNIT = {"paper": 6, "edge": 7}
_IDLE = {"shape_call", "constant", "noop", "signal", "wait"}


def make_graphs(preset: str) -> dict[str, bytes]:
    """The typed graphs that a bundle would hold, by precision."""
    torch.manual_seed(0)
    contract = SignalContract(sample_rate_hz=12000.0, window=2048)
    network = Network(NetworkConfig.preset(preset, model="drsn-cw", classes=10), contract).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # as training leaves them: fresh ones would fold away
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    graph = export_network(network, contract=contract, labels=tuple(f"class {index}" for index in range(10)))
    plan = make_plan(graph)
    scales = {layer.layer: 0.05 for layer in plan.int8}
    return {
        "fp32": graph.to_bytes(),
        "fp16": to_half(graph).to_bytes(),
        "int8": quantize(graph, plan=plan, scales=scales, glue="fp16").to_bytes(),
    }


def units_of(layer: LayerInfo) -> list[int]:
    """Numbers of the shrinkage units that a kernel computes a part of."""
    found = (re.match(r"units\.(\d+)\b", node) for node in layer.onnx_nodes)
    return sorted({int(match[1]) for match in found if match})


def per_unit(build: EngineBuild) -> list[int]:
    """Kernels by unit."""
    counts = Counter(
        units[0] for layer in build.layers if layer.type.lower() not in _IDLE and (units := units_of(layer))
    )
    return [counts[number] for number in sorted(counts)]


def measure(preset: str, graphs: dict[str, bytes], precision: str, target: str) -> dict[str, Any]:
    """One row."""
    options = EngineOptions(precision=precision, backend="rtx", targets=(target,))  # type: ignore[arg-type]  # checked
    row: dict[str, Any] = {"preset": preset, "precision": precision, "target": target}
    try:
        build = build_engine(graphs[precision], options=options)
    except BuildError as error:
        return row | {"built": False, "reason": f"{error.what}: {error.got}", "kernels": None, "most_per_unit": None}
    units = per_unit(build)
    return row | {
        "built": True, "reason": None, "kernels": build.kernels, "most_per_unit": max(units), "per_unit": units,
        "plan_bytes": len(build.plan), "build_seconds": round(build.seconds, 2), "version": build.version,
    }  # fmt: skip


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Largest counts by preset and precision, and whether fp32 and fp16 keep to their bounds."""
    most: dict[str, dict[str, int]] = {}
    built = [row for row in rows if row["built"]]
    for row in built:
        kept = most.setdefault(row["preset"], {})
        kept[row["precision"]] = max(kept.get(row["precision"], 0), row["kernels"])
    bounded = [row for row in built if row["precision"] != "int8" and row["target"] != "sm75"]
    return {
        "kernels": most,
        "within_bounds": all(
            row["kernels"] <= MOST[row["preset"]] and row["most_per_unit"] <= MOST_PER_UNIT[row["preset"]]
            for row in bounded
        ),
        "engines": len(built),
        "refused": [f"{row['preset']} {row['precision']} {row['target']}" for row in rows if not row["built"]],
    }


def main() -> int:
    """Print a table, or with `--json` the document alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    for name, known in (("targets", TARGETS), ("presets", PRESETS), ("precisions", PRECISIONS)):
        parser.add_argument(f"--{name}", default=",".join(known))
    arguments = parser.parse_args()
    rows = []
    for preset in arguments.presets.split(","):
        graphs = make_graphs(preset)
        for precision in arguments.precisions.split(","):
            rows += [measure(preset, graphs, precision, target) for target in arguments.targets.split(",")]
    document: dict[str, Any] = {
        "device": {"machine": platform.machine(), "gpu": None},
        "options": {"model": "drsn-cw", "window": 2048, "profile": [1, 16, 256]},
        "rows": rows,
        "summary": summarise(rows),
    }
    said = sys.stderr if arguments.json else sys.stdout
    print(f"{'preset':<8}{'precision':<11}{'target':<8}{'kernels':>8}{'per unit':>10}{'plan MB':>9}", file=said)
    for row in rows:
        head = f"{row['preset']:<8}{row['precision']:<11}{row['target']:<8}"
        if row["built"]:
            head += f"{row['kernels']:>8}{row['most_per_unit']:>10}{row['plan_bytes'] / 1e6:>9.2f}"
        else:
            head += f"  {row['reason'][:90]}"
        print(head, file=said)
    print(json.dumps(document, indent=2))
    return 0 if document["summary"]["within_bounds"] else 1


if __name__ == "__main__":
    sys.exit(main())
