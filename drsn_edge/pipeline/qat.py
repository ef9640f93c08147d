"""`train --qat`: from a run in FP32 to one that decides alike in INT8."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsn_edge.errors import UsageError
from drsn_edge.extras import require
from drsn_edge.files import check_output, dump_json, new_folder, sha256_bytes, write_bytes
from drsn_edge.pipeline.changed import Changed, changed_decisions
from drsn_edge.pipeline.qat_source import open_original, open_windows
from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.noise import NOISES, Noise
from drsn_edge.signals.splits import Part
from drsn_edge.signals.windows import Windows

if TYPE_CHECKING:
    from drsn_edge.model.checkpoint import Checkpoint
    from drsn_edge.pipeline.train import TrainResult
    from drsn_edge.training.qat import QatOptions
    from drsn_edge.training.records import FitResult

# Below the lowest trained SNR, where decisions are close and most of them change; distillation needs no labels there.
BELOW_DB = 4.0
# As `export` takes by default.
_WINDOWS = 512


@dataclass(frozen=True, eq=False)
class QatRun:
    """What quantization-aware training made.

    Attributes:
        checkpoint: In FP32, with plan and scales in its `qat`.
        plan: Which convolutions are int8, in words.
        method: How the scales were found.
        fitted: A record per epoch, and which was kept.
        changed: Test decisions that differ from the original's.
    """

    checkpoint: Checkpoint
    plan: str
    method: str
    fitted: FitResult
    changed: tuple[Changed, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: without the checkpoint, which is a folder."""
        qat = self.checkpoint.qat or {}
        return {
            "original": qat.get("original"),
            "original_weights_sha256": qat.get("original_weights_sha256"),
            "plan": self.plan,
            "method": self.method,
            "changed": [row.to_json() for row in self.changed],
        }


def train_qat(
    dataset: str,
    *,
    out: Path,
    init: Path | None,
    asked: Mapping[str, tuple[Any, Any]],
    given: Mapping[str, Any],
    where: Mapping[str, str] | None = None,
    quantize_first: bool = False,
    force: bool = False,
    dry_run: bool = False,
    threads: int = 1,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a network to decide in INT8 as it does in FP32, and score it.

    Args:
        dataset: That of the run of `init`.
        out: Run folder; appears when all is done.
        init: The run in FP32.
        asked: See `open_original`.
        given: Of the options of `QatOptions`, those that are not None; noise is that of the run.
        where: Only recordings of these groups; those of the run by default.
        quantize_first: The first convolution in int8 too.
        force: Replace the run in `out`.
        dry_run: Check everything, train and write nothing.
        threads: CPU threads.
        progress: Where steps go.

    Raises:
        UsageError: No such run, other data or another network than its, an output that exists.
        InputError: Data that cannot be used.
    """
    require("onnx", "onnx_ir", "onnxscript", purpose="calibrating")
    require("onnxruntime", purpose="calibrating", extra="host")
    from drsn_edge.model.checkpoint import save_checkpoint
    from drsn_edge.pipeline.train import SCORES, TrainResult
    from drsn_edge.training.compute import cpu_threads
    from drsn_edge.training.confidence import temperature_of
    from drsn_edge.training.evaluate import evaluate
    from drsn_edge.training.options import FitOptions
    from drsn_edge.training.qat import QatOptions

    check_output(out, force=force)
    options = QatOptions(**{name: value for name, value in given.items() if value is not None})
    original = open_original(init, asked)
    noises = _noises(original)
    data, windows = open_windows(dataset, original, where or {})
    options = with_trained_noise(options, original)
    counts = {part: len(items) for part, items in windows.items()}
    record = original.training
    if init is None or record is None:
        raise TypeError("open_original let a run pass that it refuses")
    if dry_run:
        planned = dataclasses.replace(record, epochs=options.epochs, best_epoch=0, scores={})
        notes = (*data.notes, "Dry run: nothing was trained or written.")
        return TrainResult(out, planned, (), counts, notes)
    with new_folder(out, force=force) as folder, cpu_threads(threads):
        run = quantization_aware(
            original, windows, name=init.resolve().name, options=options, quantize_first=quantize_first,
            progress=progress,
        )  # fmt: skip
        network = run.checkpoint.network
        judged = FitOptions(noise=options.noise, seed=options.seed)
        temperature = temperature_of(network, windows["validation"], judged).value
        scores = evaluate(
            network, windows["test"], noise=noises or ("gaussian",), temperature=temperature, progress=progress
        )
        done = dataclasses.replace(
            record,
            epochs=options.epochs,
            best_epoch=run.fitted.best.epoch,
            temperature=temperature,
            scores={f"test {score.condition}": score.balanced_accuracy for score in scores},
        )
        save_checkpoint(folder, dataclasses.replace(run.checkpoint, training=done))
        result = TrainResult(out, done, scores, counts, data.notes, run)
        table = {key: value for key, value in result.to_json().items() if key != "run"}
        write_bytes(folder / SCORES, dump_json(table | {"labels": list(original.labels)}).encode())
        lines = [json.dumps(dataclasses.asdict(item)) + "\n" for item in run.fitted.records]
        write_bytes(folder / "log.jsonl", "".join(lines).encode())
    return result


def with_trained_noise(options: QatOptions, original: Checkpoint) -> QatOptions:
    """The noise that the original was trained with; towards its logits also `BELOW_DB` below."""
    from drsn_edge.training.options import NoiseRange

    record = original.training
    if record is None or record.snr_db is None:
        return dataclasses.replace(options, noise=NoiseRange())
    below = BELOW_DB if options.objective == "distil" else 0.0
    noise = NoiseRange(_noises(original), (record.snr_db[0] - below, record.snr_db[1]))
    return dataclasses.replace(options, noise=noise)


def _noises(original: Checkpoint) -> tuple[Noise, ...]:
    """The kinds that it was trained with; a record holds plain text."""
    return tuple(kind for kind in NOISES if original.training is not None and kind in original.training.noises)


def quantization_aware(
    original: Checkpoint,
    windows: Mapping[Part, Windows],
    *,
    name: str,
    options: QatOptions,
    quantize_first: bool = False,
    progress: Progress = SILENT,
) -> QatRun:
    """Calibrate the original, train a copy under these scales, bind them to the weights that came of it.

    Args:
        original: In FP32; not changed.
        windows: Raw, of each part.
        name: Of the original, for the record.
        options: How, noise included.
        quantize_first: The first convolution in int8 too.
        progress: Where steps go.

    Raises:
        InputError: Windows that cannot calibrate.
        UsageError: The training diverged.
    """
    from drsn_edge.calibration.calibrate import CalibrationOptions, calibrate
    from drsn_edge.calibration.windows import choose
    from drsn_edge.exporters.torch_graph import export_network
    from drsn_edge.model.checkpoint import Checkpoint
    from drsn_edge.model.fake_quant import FakeQuantNetwork
    from drsn_edge.model.weights import weight_bytes
    from drsn_edge.training.qat import fine_tune

    record = original.training
    if record is None:
        raise UsageError("nobody recorded what trained this network", got="no training record", expected="one")
    hard = None if record.snr_db is None else (record.snr_db[0] - BELOW_DB, record.snr_db[1])
    drawn = {"count": _WINDOWS, "noises": _noises(original), "seed": options.seed}
    found = calibrate(
        export_network(original.network, contract=original.contract, labels=original.labels),
        choose(windows["train"], snr_db=record.snr_db, **drawn),  # type: ignore[arg-type]
        choose(windows["validation"], snr_db=hard, stream="held-out", **drawn),  # type: ignore[arg-type]
        contract=original.contract,
        weights_sha256=sha256_bytes(weight_bytes(original.network)),
        options=CalibrationOptions(quantize_first=quantize_first, rounding="nearest"),
        progress=progress,
    )
    network = copy.deepcopy(original.network)
    student = FakeQuantNetwork(network, found.scales, full_range=found.full_range, learned=options.learned)
    fitted = fine_tune(
        student, original.network, windows["train"], windows["validation"], options=options, progress=progress
    )
    network.eval()
    calibration = dataclasses.replace(
        found,
        method=f"{found.method}, {'learned from there' if options.learned else 'trained with'}",
        scales=student.scales,
        bindings=dataclasses.replace(found.bindings, weights=sha256_bytes(weight_bytes(network))),
    )
    qat = {
        "original": name,
        "original_weights_sha256": found.bindings.weights,
        "options": options.to_json(),
        "calibration": calibration.to_json(),
    }
    done = dataclasses.replace(record, epochs=options.epochs, best_epoch=fitted.best.epoch, scores={})
    checkpoint = Checkpoint(network, original.contract, original.labels, done, original.split, qat)
    changed = changed_decisions(
        original,
        checkpoint,
        calibration,
        found,
        windows["test"],
        noises=_noises(original),
        progress=progress,
    )
    return QatRun(checkpoint, calibration.plan.summary, calibration.method, fitted, changed)
