"""`score`: archived recordings, years of them, on a bundle's network; in parallel, and gone on with after a kill."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drsn_edge._version import __version__
from drsn_edge.bundle import Bundle
from drsn_edge.errors import DrsnError, InputError, UsageError
from drsn_edge.files import read_json, write_bytes, write_json
from drsn_edge.pipeline.run import StreamOptions, normal_labels
from drsn_edge.pipeline.score_pool import finished, open_pool
from drsn_edge.pipeline.score_worker import LINES, RESULT, Job, Setup, score_file
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.cpus import usable_cpus
from drsn_edge.signals.readers import READERS
from drsn_edge.stream.smoothing import SmoothingOptions
from drsn_edge.stream.spec import SourceSpec, parse_sources

SETTINGS, SUMMARY, TABLE, FILES = "score.json", "summary.json", "files.csv", "files"
_FIGURES = ("windows", "decided", "unknown", "clipped", "flat", "nan")
_KINDS = ("state", "drift", "input")


@dataclass(frozen=True)
class ScoreResult:
    """What was found.

    Attributes:
        out: The folder of results.
        files: Recordings; `scored` of them, `failed` of them, and `resumed` of both were there already.
        seconds: Of signal.
        windows, decided, unknown, clipped, flat, nan: As counted by `run`, of all recordings together.
        counts: Decisions by label.
        alarms: Raised, by kind.
        failures: Recordings by what was wrong with them.
        notes: What the user should know.
        planned: Whether nothing was scored.
    """

    out: Path
    files: int
    scored: int = 0
    failed: int = 0
    resumed: int = 0
    seconds: float = 0.0
    windows: int = 0
    decided: int = 0
    unknown: int = 0
    clipped: int = 0
    flat: int = 0
    nan: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    alarms: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    planned: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {"format_version": 1, **value, "out": str(self.out), "notes": list(self.notes)}


def score(
    bundle: Path | str | Bundle,
    archives: Sequence[str],
    *,
    out: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    lines: bool = True,
    retry_failed: bool = False,
    runner: str = "auto",
    precision: str | None = None,
    allow_unverified: bool = False,
    options: StreamOptions | None = None,
    smoothing: SmoothingOptions | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> ScoreResult:
    """Decide on every window of every recording in archives, as `run` does for each of them alone.

    Every finished recording has its result in `out`, by rename: after a stop or a kill the same call goes on with what
    is left. A recording that has changed since, by size or time, is scored anew; one that cannot be read is a row of
    its own, and no reason to stop.

    Args:
        bundle: Of the network.
        archives: `[NAME=]PLACE[,key=value...]` as for `run`: folders, nested as they may be, and files.
        out: Folder of results.
        workers: Processes of this machine; by default one for each CPU.
        scheduler: Address of a Dask scheduler whose workers are taken instead; all paths must be the same for them.
        lines: Write every decision down, not only the counts.
        retry_failed: Try recordings again that failed before.
        runner: `auto`, `engine` or `onnxruntime`.
        precision: Of the engine or the graph.
        allow_unverified: Take an engine that never passed a parity check.
        options: How samples become windows.
        smoothing: How decisions become a state.
        force: Begin anew where `out` has results of other settings.
        dry_run: Say what there is to do; score and write nothing.
        progress: Told of every recording.

    Raises:
        UsageError: Results of other settings in `out`; live sources; options that do not fit together.
        InputError: A bundle or an archive that cannot be used, a scheduler that cannot be reached.
        MissingError: No runner, no Dask, or no workers.
        DrsnError: A worker that could not go on.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    options = options or StreamOptions()
    smoothing, notes = normal_labels(opened, smoothing or SmoothingOptions())
    workers = usable_cpus() if workers is None else workers
    if workers < 1:
        raise UsageError("there are too few workers", got=workers, expected="at least 1")
    setup = Setup(
        bundle=str(opened.path.absolute()), digest=opened.digest, version=__version__, runner=runner,
        precision=precision, allow_unverified=allow_unverified, options=options, smoothing=smoothing, lines=lines,
    )  # fmt: skip
    jobs = list(_jobs(setup, parse_sources(archives), out))
    if not jobs:
        raise InputError(
            "the archives hold no recordings", got=", ".join(archives), expected=f"files of {', '.join(READERS)}"
        )
    kept = _begin(out, setup, force=force, dry_run=dry_run)
    left = [job for job in jobs if not (kept and _done(job, retry_failed=retry_failed))]
    resumed = len(jobs) - len(left)
    if dry_run:
        return ScoreResult(out, len(jobs), resumed=resumed, notes=tuple(notes), planned=True)
    failed = 0
    if left:
        with progress.step("scoring", len(left)) as step, open_pool(workers, scheduler) as (executor, count):
            for row in finished(score_file, left, executor, count):
                failed += row["status"] == "failed"
                step.advance(1, f"{failed} failed" if failed else None)
    result = _gather(jobs, opened.labels, ScoreResult(out, len(jobs), resumed=resumed, notes=tuple(notes)))
    write_json(out / SUMMARY, result.to_json())
    return result


def _jobs(setup: Setup, specs: Sequence[SourceSpec], out: Path) -> Iterator[Job]:
    for spec in specs:
        if spec.live:
            raise UsageError("an archive is no live source", got=spec.text, expected="a folder or a file")
        place = Path(spec.place).absolute()
        if out.resolve().is_relative_to(place.resolve()):
            raise UsageError(
                "the results would lie in the archive itself", got=out, expected=f"a folder not in {place}"
            )
        for path in [place] if spec.kind == "file" else _recordings(place):
            file = path.name if spec.kind == "file" else path.relative_to(place).as_posix()
            info = path.stat()
            one = dataclasses.replace(spec, text=str(path), name=path.stem, kind="file", place=str(path))
            into = (out / FILES / spec.name / file).absolute()
            yield Job(setup, one, spec.name, file, str(into), info.st_size, info.st_mtime_ns)


def _recordings(folder: Path) -> Iterator[Path]:
    """Files that a reader knows, in the order of their names; hidden ones and links to folders are left alone."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root) / name
            if not name.startswith(".") and path.suffix.lower() in READERS and path.is_file():
                yield path


def _begin(out: Path, setup: Setup, *, force: bool, dry_run: bool) -> bool:
    """Whether there are results to go on with; else make the folder."""
    settings = {"format_version": 1, **dataclasses.asdict(setup)}
    del settings["bundle"]  # the digest says which; where it lies does not matter
    settings["smoothing"]["normal"] = list(setup.smoothing.normal)
    if (out / SETTINGS).is_file():
        before = read_json(out / SETTINGS, what="the settings of the results")
        other = sorted(key for key in settings if before.get(key) != settings[key])
        if not other:
            for half in () if dry_run else (out / FILES).rglob(f".*{LINES}"):
                half.unlink(missing_ok=True)  # of workers that were killed
            return True
        if not force:
            raise UsageError(
                "the results that are there were made with other settings", got=f"{out}: other {', '.join(other)}",
                expected="the same, or another --out", hint="add --force to remove them and begin anew",
            )  # fmt: skip
        if not dry_run:
            shutil.rmtree(out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the output exists and holds no results", got=out, expected="a new name for the output")
    if not dry_run:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / SETTINGS, settings)
    return False


def _done(job: Job, *, retry_failed: bool) -> bool:
    path = Path(job.into + RESULT)
    if not path.is_file():
        return False
    row = _row(path)
    same = (row.get("size"), row.get("mtime_ns")) == (job.size, job.mtime_ns)
    return same and not (retry_failed and row.get("status") == "failed")


def _row(path: Path) -> dict[str, Any]:
    return read_json(path, what="the result of a recording")


def _gather(jobs: Sequence[Job], labels: Sequence[str], begun: ScoreResult) -> ScoreResult:
    """The table, one recording at a time, and the sums."""
    sums, counts, alarms, failures = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    seconds, scored = 0.0, 0
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = [*(f"count {label}" for label in labels), *(f"alarms {kind}" for kind in _KINDS)]
    table.writerow(["archive", "file", "status", "seconds", *_FIGURES, *columns, "state", "drift", "error"])
    for job in jobs:
        row = _row(Path(job.into + RESULT))
        try:
            good = row["status"] == "scored"
            figures = [row["seconds"], *(row[name] for name in _FIGURES)] if good else [""] * (1 + len(_FIGURES))
            more = [row["counts"][label] for label in labels] + [row["alarms"][kind] for kind in _KINDS] if good else []
            more = more or [""] * len(columns)
            end = [row["state"], row["drift"], ""] if good else ["", "", row["error"]["what"]]
            table.writerow([job.archive, job.file, row["status"], *figures, *more, *end])
            if not good:
                failures[f"{row['error']['kind']}: {row['error']['what'].replace(job.spec.place, 'the file')}"] += 1
                continue
            scored += 1
            seconds += row["seconds"]
            sums.update({name: row[name] for name in _FIGURES})
            counts.update(row["counts"])
            alarms.update(row["alarms"])
        except (KeyError, TypeError) as error:
            raise DrsnError(
                "the result of a recording is damaged", got=f"{job.into + RESULT}: {error!r}",
                expected="one that score wrote", hint="remove it, and the same command makes it again",
            ) from None  # fmt: skip
    write_bytes(begun.out / TABLE, text.getvalue().encode())
    figures_of_all: dict[str, Any] = {name: sums[name] for name in _FIGURES}
    return dataclasses.replace(
        begun, scored=scored, failed=len(jobs) - scored, seconds=round(seconds, 3), counts=dict(counts),
        alarms=dict(alarms), failures=dict(failures.most_common()), **figures_of_all,
    )  # fmt: skip
