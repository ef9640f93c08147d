"""`bench`: rows of everything that runs, reasons for the rest, comparison of like with like, the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drsn_edge.bundle import BENCH, REPORT, REPORT_DATA, Bundle, NewFile
from drsn_edge.cli import app
from drsn_edge.errors import InputError, MissingDependency, MissingDevice, UsageError
from drsn_edge.files import dump_json
from drsn_edge.pipeline import bench as module
from drsn_edge.pipeline.bench import BenchOptions, bench, verdicts
from drsn_edge.pipeline.bench_energy import row_energy
from drsn_edge.pipeline.bench_evidence import evidence_for
from drsn_edge.pipeline.bench_result import BenchResult, BenchRow, read_bench
from drsn_edge.runtime.timing import TimingOptions

QUICK = TimingOptions(iterations=24, warmup=1, seconds=1.0, rounds=3)


@pytest.fixture(scope="module")
def kept(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchResult]:
    """A bundle that was measured once, and the result that was put into it."""
    path = workshop.copy(tmp_path_factory.mktemp("bench"))
    return path, bench(path, options=BenchOptions(batches=(1, 4), timing=QUICK), keep=True)


def test_every_form_has_a_row_or_a_reason(kept: tuple[Path, BenchResult]) -> None:
    path, result = kept
    measured = {(row.variant, row.batch) for row in result.rows if row.status == "measured"}
    graphs = ("pytorch", "onnx-fp32", "onnx-fp16", "onnx-int8")
    assert measured >= {(name, batch) for name in graphs for batch in (1, 4)}
    for row in result.rows:
        if row.status == "not_run":
            assert row.reason
            assert row.p50_ms is None
            continue
        assert row.iterations is not None
        assert 2 <= row.iterations <= 24
        assert row.p50_ms is not None
        assert row.windows_per_s is not None
        # One call after the other: throughput follows from the mean, which is no less than half of the median.
        assert 0 < row.windows_per_s <= 2000 * row.batch / row.p50_ms
        assert len(row.rounds_ms) == 3
    engines = [row for row in result.rows if row.engine]
    assert {row.engine for row in engines} == set(Bundle.open(path).engines())
    assert any("FP16 in FP32" in note for note in result.notes)
    assert result.memory["peak_rss_bytes"]


def test_the_verdict_is_of_one_runner(kept: tuple[Path, BenchResult]) -> None:
    _, result = kept
    assert "torch" not in result.verdicts  # it ran one precision
    verdict = result.verdicts["onnxruntime"]
    assert verdict.precision in ("fp32", "fp16", "int8")
    assert set(verdict.speedups["int8 over fp16"]) == {1, 4}


def test_it_is_kept_in_bundle_and_report(kept: tuple[Path, BenchResult]) -> None:
    path, result = kept
    bundle = Bundle.open(path)
    bundle.check()
    assert bundle.files[BENCH].role == "bench"
    assert bundle.read_json(BENCH) == json.loads(dump_json(result.to_json()))
    report = bundle.read_json(REPORT_DATA)
    assert len(report["latency"]) == sum(row.status == "measured" for row in result.rows)
    assert any("onnxruntime: use" in line for line in report["precision"])
    if REPORT in bundle.files:
        assert "Latency and throughput" in bundle.read(REPORT).decode()


def test_the_report_says_when_the_bundle_has_changed_since(kept: tuple[Path, BenchResult], tmp_path: Path) -> None:
    import shutil

    from drsn_edge.pipeline.reporting import renew_report

    path = Path(shutil.copytree(kept[0], tmp_path / "changed.drsn"))
    bundle = Bundle.open(path)
    changed = bundle.update({"model.fp16.onnx": NewFile(bundle.read("model.fp16.onnx") + b"\x00", "graph")})
    said = renew_report(changed).read_json(REPORT_DATA)["precision"]
    assert any("changed: model.fp16.onnx" in line for line in said)


def test_a_saved_result_of_the_same_state_is_compared(kept: tuple[Path, BenchResult], tmp_path: Path) -> None:
    path, result = kept
    saved = tmp_path / "before.json"
    saved.write_text(dump_json(result.to_json()))
    again = bench(path, options=BenchOptions(batches=(1,), runners=("onnxruntime",), timing=QUICK), against=saved)
    before = {row.key: row.p50_ms for row in result.rows}
    assert {item.variant for item in again.against} == {"onnx-fp32", "onnx-fp16", "onnx-int8"}
    for item in again.against:
        assert item.before_p50_ms == before[item.variant, item.engine, item.batch]
        assert item.speedup == pytest.approx(item.before_p50_ms / item.p50_ms)


def test_unlike_states_are_not_compared(
    kept: tuple[Path, BenchResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, result = kept
    saved = tmp_path / "before.json"
    other = dataclasses.replace(result, device=dataclasses.replace(result.device, power_mode="MAXN"))
    saved.write_text(dump_json(other.to_json()))
    monkeypatch.setattr(module, "measure", lambda *_, **__: pytest.fail("refused before anything is measured"))
    with pytest.raises(InputError, match="another state") as caught:
        bench(path, against=saved)
    assert "power mode: MAXN there, None here" in str(caught.value)


@pytest.mark.parametrize("content", ["{}", '{"format_version": 2, "rows": []}', '{"format_version": 1, "rows": [{}]}'])
def test_what_is_no_saved_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError):
        read_bench(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"batches": ()}, "()"), ({"batches": (0,)}, "0"), ({"runners": ("gpu",)}, "gpu"),
        ({"precisions": ("int4",)}, "int4"), ({"energy_seconds": -1.0}, "-1"),
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, Any], got: str) -> None:
    with pytest.raises(UsageError) as caught:
        BenchOptions(**options)
    assert got in str(caught.value)


def test_nothing_that_was_asked_for(workshop: Any) -> None:
    with pytest.raises(UsageError, match="nothing of what was asked") as caught:
        bench(workshop.bundle, options=BenchOptions(runners=("torch",), precisions=("int8",)))
    assert "torch" in str(caught.value)
    if Bundle.open(workshop.bundle).engines():
        with pytest.raises(MissingDependency, match="can run here") as missing:
            bench(workshop.bundle, options=BenchOptions(engines_only=True))
        assert "engine-" in str(missing.value)


class Sensor:
    """10 W while something runs, 4 W otherwise."""

    name = "made up"

    def __init__(self, *, idle: float = 4.0, busy: float = 10.0) -> None:
        self.idle, self.busy, self.working, self.closed = idle, busy, False, False

    def read(self) -> dict[str, float]:
        return {"VDD_IN": self.busy if self.working else self.idle, "VDD_SOC": 1.0}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sensor], None]:
    """Tell a sensor when a row runs."""

    def watch(sensor: Sensor) -> None:
        def run(*args: Any, **options: Any) -> Any:
            sensor.working = True
            try:
                return row_energy(*args, **options)
            finally:
                sensor.working = False

        monkeypatch.setattr(module, "row_energy", run)

    return watch


OPTIONS = BenchOptions(
    batches=(4,), runners=("onnxruntime",), precisions=("fp32",), timing=QUICK, energy_seconds=1.0, idle_seconds=1.0
)


def test_energy_of_a_decision(workshop: Any, watched: Callable[[Sensor], None]) -> None:
    sensor = Sensor()
    watched(sensor)
    (row,) = [row for row in bench(workshop.bundle, options=OPTIONS, sensor=sensor).rows if row.energy]
    energy = row.energy
    assert energy is not None
    assert (energy.watts, energy.idle_watts) == pytest.approx((10.0, 4.0))
    assert energy.joules_per_decision == pytest.approx(6.0 * energy.seconds / energy.windows)
    assert energy.joules_per_decision_with_idle == pytest.approx(10.0 * energy.seconds / energy.windows)
    assert (energy.rails, energy.sensor, energy.windows % 4) == ("VDD_IN", "made up", 0)
    assert BenchRow.from_json(json.loads(dump_json(row.to_json()))) == row
    assert sensor.closed


def test_a_difference_that_drowns_in_idle_power_is_no_figure(workshop: Any, watched: Any) -> None:
    sensor = Sensor(idle=4.0, busy=3.9)
    watched(sensor)
    (row,) = [row for row in bench(workshop.bundle, options=OPTIONS, sensor=sensor).rows if row.energy]
    assert row.energy is not None
    assert row.energy.joules_per_decision is None
    assert row.energy.joules_per_decision_with_idle > 0


def test_energy_without_a_sensor(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise MissingDevice("this machine does not tell its power")

    monkeypatch.setattr(module, "find_sensor", none)
    with pytest.raises(MissingDevice, match="does not tell its power"):
        bench(workshop.bundle, options=OPTIONS)


def rows_of(key: str, *p50_ms: float) -> list[BenchRow]:
    names = ("fp32", "fp16", "int8")
    return [
        BenchRow(
            f"engine-{name}", "tensorrt", name, key if name == "int8" else None, 1, status="measured", p50_ms=value
        )
        for name, value in zip(names, p50_ms, strict=True)
    ]


def test_evidence_comes_from_engine_and_parity(workshop: Any, tmp_path: Path) -> None:
    bundle = Bundle.open(workshop.copy(tmp_path))
    info = {
        "precision": "int8", "kernels": 9, "precisions": {"fp32": 0, "fp16": 1, "int8": 3},
        "layers": [{"type": "Reformat", "name": "a"}, {"type": "NoOp", "name": "Reformatting CopyNode for x"},
                   {"type": "Convolution", "name": "b"}],
    }  # fmt: skip
    files = {
        "engines/k/model.int8.engine": NewFile(b"plan", "engine"),
        "engines/k/engine.json": NewFile(dump_json(info).encode(), "engine-info"),
    }
    bundle = bundle.update(files)
    found = evidence_for(bundle, "tensorrt", rows_of("k", 3.0, 2.0, 1.0))["int8"]
    assert (found.kernels, found.reformats, found.int8_share) == (9, 2, 0.75)
    parity = bundle.read_json(REPORT_DATA)["parity"]
    assert found.changed == max(
        point["changed"]["onnx-int8"]["ci95"][1] for point in parity["decisions"] if point["gated"]
    )
    assert verdicts(rows_of("k", 3.0, 2.0, 1.0), bundle)["tensorrt"].int8_worth_it is (found.passed is not False)


def test_a_failed_hop_fails_the_precision_that_it_leads_to(workshop: Any, tmp_path: Path) -> None:
    bundle = Bundle.open(workshop.copy(tmp_path))
    report = bundle.read_json(REPORT_DATA)
    report["parity"]["failures"] = [
        {"where": "onnx-fp32 to onnx-fp16", "what": "sqnr_db", "value": 1.0, "limit": 2.0},
        {"where": "onnx-int8 at clean", "what": "upper end of changed decisions", "value": 0.1, "limit": 0.03},
    ]
    bundle = bundle.update({REPORT_DATA: NewFile(dump_json(report).encode(), "report")})
    rows = [BenchRow(f"onnx-{n}", "onnxruntime", n, None, 1, p50_ms=1.0) for n in ("fp32", "fp16", "int8")]
    found = evidence_for(bundle, "onnxruntime", rows)
    assert [found[name].passed for name in ("fp32", "fp16", "int8")] == [True, False, False]


def test_the_command(workshop: Any, kept: tuple[Path, BenchResult]) -> None:
    args = ["bench", str(workshop.bundle), "--precision", "fp32", "--batch", "2", "--iterations", "4", "--rounds", "2"]
    said = CliRunner().invoke(app, [*args, "--json"])
    assert said.exit_code == 0, said.stderr
    value = json.loads(said.stdout)
    assert value["format_version"] == 1
    assert {
        "runner",
        "precision",
        "batch",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "windows_per_s",
        "warmup",
        "iterations",
    } <= set(value["rows"][0])
    assert all(row["host_copies"] is True for row in value["rows"])
    shown = CliRunner().invoke(app, args)
    assert "copies between host and GPU are included" in shown.stdout
    refused = CliRunner().invoke(app, [*args, "--batch", "x"])
    assert refused.exit_code == 2
    assert "got:      x" in refused.stderr
