"""The report of a bundle: gathers what `drsn_edge.report` draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drsn_edge.bundle import BENCH, CALIBRATION, GOLDEN, REPORT, REPORT_DATA, Bundle, NewFile, graph_name
from drsn_edge.extras import available, require
from drsn_edge.files import dump_json, write_bytes
from drsn_edge.golden import Golden
from drsn_edge.parity.logits import as_logits, margins
from drsn_edge.parity.result import ParityResult
from drsn_edge.pipeline.int8_worth import int8_worth
from drsn_edge.report.data import Example, ReportData, WorstWindow
from drsn_edge.report.page import render
from drsn_edge.report.text import plain
from drsn_edge.runtime.device_state import DeviceState


def verdict(result: ParityResult) -> str:
    """The outcome in one sentence."""
    idle = sorted({hop.to for hop in result.hops if hop.status == "not_run" and hop.to != "pytorch"})
    tail = f" Not run here: {', '.join(idle)}." if idle else ""
    if not result.passed:
        count = len(result.failures)
        checks = "1 check fails" if count == 1 else f"{count} checks fail"
        return f"Out of tolerance: {checks}; the first is {result.failures[0].where}.{tail}"
    judged = sum(point.gated for point in result.decisions)
    run = sum(hop.status != "not_run" for hop in result.hops)
    levels = f" and at {judged} judged noise levels" if judged else ""
    return f"Within tolerance: on {run} hops{levels} every variant decides as {result.reference} does.{tail}"


def add_report(bundle: Bundle, result: ParityResult, *, title: str, notes: Sequence[str] = ()) -> Bundle:
    """Put `report.json`, and `report.html` where matplotlib is installed, into a bundle.

    Returns:
        The bundle as it is now.
    """
    data = report_data(bundle, result, title=title, notes=notes)
    files = {REPORT_DATA: NewFile(dump_json(data.to_json()).encode(), "report")}
    if available("matplotlib"):
        files[REPORT] = NewFile(render(data).encode(), "report")
    return bundle.update(files)


def renew_report(bundle: Bundle) -> Bundle:
    """Draw the report anew from what it showed and what the bundle holds now; nothing without a report.

    Returns:
        The bundle as it is now.

    Raises:
        InputError: The saved report cannot be read.
    """
    if REPORT_DATA not in bundle.files:
        return bundle
    old = ReportData.from_json(bundle.read_json(REPORT_DATA))
    notes = [str(value) for name, value in old.provenance.items() if name.startswith("note ")]
    return add_report(bundle, ParityResult.from_json(old.parity), title=old.title, notes=notes)


def write_parity_report(path: Path, result: ParityResult, *, bundle: Path | None = None) -> None:
    """Write an HTML report beside a bundle, or of a saved result alone.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", purpose="the report")
    if bundle is not None:
        data = report_data(Bundle.open(bundle), result, title=bundle.name)
    else:
        data = ReportData(title="saved result", verdict=verdict(result), parity=result.to_json())
    write_bytes(path, render(data).encode())


def report_data(bundle: Bundle, result: ParityResult, *, title: str, notes: Sequence[str] = ()) -> ReportData:
    """Everything that the page shows of a bundle."""
    manifest = bundle.manifest
    network = manifest["model"].get("network") or {}
    plan = bundle.read_json(CALIBRATION)["plan"] if CALIBRATION in bundle.files else []
    engines = []
    for key in bundle.engines():
        info = bundle.read_json(f"engines/{key}/engine.json")
        engines.append(
            {
                "engine": key,
                "precision": info["precision"],
                "built with": f"{info['backend']} {info['version']}",
                "for": ", ".join(info["targets"]) or "any",
                "kernels": info["kernels"],
                "products": ", ".join(f"{count} in {name}" for name, count in info["precisions"].items() if count),
            }
        )
    training = manifest["provenance"].get("training") or {}
    latency, precision = _latency(bundle)
    return ReportData(
        title=title,
        verdict=verdict(result),
        parity=result.to_json(),
        model={
            "network": network.get("model", manifest["model"]["source"]),
            "channels": ", ".join(map(str, network.get("widths", ()))) or "unknown",
            "shrinkage units": len(bundle.units),
            "classes": ", ".join(bundle.labels),
            "values in FP16": (manifest["model"].get("fp16_ranges") or {}).get("summary", "not looked at"),
            **{key: plain(value) for key, value in manifest["contract"].items() if value is not None},
        },
        provenance={
            "drsn-edge": manifest["drsn_edge"],
            "weights": manifest["model"]["weights_sha256"],
            **{f"training {key}": plain(value) for key, value in training.items() if value not in (None, [], {}, "")},
            **{f"tool {key}": value for key, value in manifest["provenance"]["tools"].items()},
            **{f"int8 on {key}": item.text for key, item in int8_worth(bundle).items()},
            **{f"note {index + 1}": note for index, note in enumerate(dict.fromkeys(notes))},
        },
        plan=[{key: row[key] for key in ("layer", "precision", "reason", "warning")} for row in plan],
        engines=engines,
        files=[
            {"name": name, "role": entry.role, "size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(bundle.files.items())
        ],
        latency=latency,
        precision=precision,
        labels=bundle.labels,
        example=_example(bundle),
        worst=_worst(bundle),
    )


def _latency(bundle: Bundle) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows that `bench --keep` measured, and what follows from them in words."""
    if BENCH not in bundle.files:
        return [], []
    kept = bundle.read_json(BENCH)
    rows = [
        {
            "form": row["variant"] + (f" ({row['engine']})" if row["engine"] else ""),
            "runner": row["runner"],
            "batch": row["batch"],
            "p50, ms": row["p50_ms"],
            "p95, ms": row["p95_ms"],
            "p99, ms": row["p99_ms"],
            "windows per s": row["windows_per_s"],
            "mJ per decision": row["energy"] and _milli(row["energy"]["joules_per_decision"]),
        }
        for row in kept["rows"]
        if row["status"] == "measured"
    ]
    if not any(row["mJ per decision"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "mJ per decision"} for row in rows]
    said = [f"measured on {DeviceState.from_json(kept['device']).summary}"]
    said += [f"{runner}: {line}" for runner, item in kept["verdicts"].items() for line in item["reasons"]]
    stale = [
        name for name, sha in kept["files"].items() if name not in bundle.files or bundle.files[name].sha256 != sha
    ]
    if stale:
        said.append(f"measured before these files of the bundle changed: {', '.join(stale)}")
    return rows, said


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


def _worst(bundle: Bundle, count: int = 4) -> tuple[WorstWindow, ...]:
    """Golden windows of a class on which the least precise form eats most of the margin, by what was recorded."""
    golden = Golden.from_bytes(bundle.read(GOLDEN))
    form = next((name for name in ("onnx-int8", "onnx-fp16") if name in golden.logits), None)
    if form is None or bundle.contract.image is not None:
        return ()
    want, have = (as_logits(golden.logits[name], name=name) for name in ("pytorch", form))
    margin = margins(want)
    eaten = 2 * np.abs(have - want).max(axis=1) / np.maximum(margin, 1e-30)
    rows = [int(row) for row in np.argsort(-eaten, kind="stable") if golden.y[row] >= 0][:count]
    labels = bundle.labels
    return tuple(
        WorstWindow(
            number=place,
            window=golden.windows[row, 0],
            sample_rate_hz=bundle.contract.sample_rate_hz,
            units=bundle.contract.units,
            caption=f"{labels[int(golden.y[row])]}, "
            + ("clean" if np.isnan(golden.snr_db[row]) else f"{golden.snr_db[row]:g} dB"),
            variant=form,
            reference=labels[int(want[row].argmax())],
            decided=labels[int(have[row].argmax())],
            margin_eaten=float(eaten[row]),
        )
        for place, row in enumerate(rows, start=1)
    )


def _example(bundle: Bundle) -> Example | None:
    """The golden window of the lowest SNR with a class, and the channel of the middle unit that is zeroed most."""
    if not bundle.units or not available("onnx_ir") or bundle.contract.image is not None:
        return None
    from drsn_edge.calibration.collect import tap
    from drsn_edge.exporters.canonical import parse
    from drsn_edge.exporters.units import find_units
    from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

    golden = Golden.from_bytes(bundle.read(GOLDEN))
    noisy = np.flatnonzero((golden.y >= 0) & ~np.isnan(golden.snr_db))
    if not len(noisy):
        return None
    row = int(noisy[np.argmin(golden.snr_db[noisy])])
    data = bundle.read(graph_name("fp32", probe=True))
    units = {unit.name: unit for unit in find_units(parse(data))}
    name = bundle.units[len(bundle.units) // 3]
    features = units[name].features.name or ""
    with OnnxRuntimeRunner(tap(data, [features])) as runner:
        found = runner.run({"window": golden.windows[row : row + 1]})
    threshold = found[f"{name}.threshold"][0]
    share = found[f"{name}.zero_share"][0]
    # Neither untouched nor wiped out: the channel that shows what a threshold does.
    channel = int(np.argmin(np.abs(share - 0.6)))
    decided = bundle.labels[int(found["logits"][0].argmax())]
    return Example(
        window=golden.windows[row, 0],
        sample_rate_hz=bundle.contract.sample_rate_hz,
        units=bundle.contract.units,
        caption=f"{bundle.labels[int(golden.y[row])]} at {golden.snr_db[row]:g} dB, decided as {decided}",
        unit=f"{name}, channel {channel}",
        before=found[features][0, channel],
        after=found[f"{name}.shrunk"][0, channel],
        threshold=float(threshold[min(channel, len(threshold) - 1)]),
    )
