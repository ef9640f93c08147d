"""The page of a study: who is better, how surely, how honest the confidences are, and what the figures do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from drsn_edge._version import __version__
from drsn_edge.files import write_bytes
from drsn_edge.parity.paired import Difference, Spread
from drsn_edge.parity.published import SOURCE, published
from drsn_edge.parity.study_summary import StudyCondition, StudySummary
from drsn_edge.report import study_charts as charts
from drsn_edge.report.page import document
from drsn_edge.report.sections import bullets, figure, matrix, section
from drsn_edge.report.text import NONE, level, number, pairs, percent, table

_PROTOCOLS = {
    "time": "Every recording trains, validates and tests with stretches of its own, a guard window apart: the figures "
    "are of machines, bearings and loads that were seen in training.",
    "random": "Windows were shared out at random: neighbours are on both sides and the figures leak. They compare with "
    "literature that splits so, and with nothing else.",
}


@dataclass(frozen=True, eq=False)
class StudyPage:
    """What the page is made of.

    Attributes:
        title: Of the page.
        summary: The figures.
        configuration: Names and values, as they are shown.
        protocol: How recordings were split.
        preset: Of the networks; the paper's curves stand beside `paper` only.
        headline_snr_db: Ratio that the first sentence speaks of; None takes the lowest.
        notes: What the reader should know, one sentence each.
    """

    title: str
    summary: StudySummary
    configuration: Mapping[str, Any]
    protocol: str
    preset: str
    headline_snr_db: float | None = None
    notes: tuple[str, ...] = ()


def write_study_page(path: Path, page: StudyPage) -> None:
    """Write the page as one self-contained HTML file, by rename.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    write_bytes(path, render(page).encode())


def render(page: StudyPage) -> str:
    """The page, as text.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    summary = page.summary
    noises = list(dict.fromkeys(condition.noise for condition in summary.conditions))
    by_noise = {noise: [item for item in summary.conditions if item.noise == noise] for noise in noises}
    body = [
        f"<h1>{escape(page.title)}</h1>",
        _headline(page, by_noise),
        bullets("To know", page.notes),
        *(_noise(page, conditions) for conditions in by_noise.values()),
        _calibration(summary, by_noise),
        _confusion(summary),
        section("Study", "What was trained and how.", pairs(page.configuration)),
        f'<footer><p class="soft">drsn-edge {escape(__version__)}</p></footer>',
    ]
    return document(page.title, "\n".join(part for part in body if part))


def _headline(page: StudyPage, by_noise: Mapping[str, Sequence[StudyCondition]]) -> str:
    lines = []
    wanted = page.headline_snr_db
    for noise, conditions in by_noise.items():
        noisy = [(item.snr_db, item) for item in conditions if item.snr_db is not None]
        if not noisy:
            continue
        snr, chosen = min(noisy, key=lambda row: row[0] if wanted is None else abs(row[0] - wanted))
        said = [
            f"{model} {_difference(found.difference)}"
            for model, found in chosen.models.items()
            if found.difference is not None
        ]
        if said:
            words = "; ".join(said)
            lines.append(
                f"<p><strong>{escape(noise)}, {level(snr)}:</strong> against "
                f"{escape(page.summary.reference)}, {escape(words)}.</p>"
            )
    return f'<div class="verdict" role="status">{"".join(lines)}</div>' if lines else ""


def _noise(page: StudyPage, conditions: Sequence[StudyCondition]) -> str:
    summary, noise = page.summary, conditions[0].noise
    models = charts.models_of(conditions)
    paper = page.preset == "paper" and any(published(noise, model) for model in models)
    parts = [
        figure("Mean and standard deviation over runs" + ("; dashed: the paper, on another rig" if paper else ""),
               charts.accuracy(conditions, paper=paper)),
        figure(f"Paired difference to {summary.reference}, with 95 % intervals",
               charts.differences(conditions, summary.reference)),
    ]  # fmt: skip
    introduction = (
        f"Balanced accuracy on test windows with {noise} noise, of networks trained on {noise} noise. "
        + _PROTOCOLS.get(page.protocol, f"One {page.protocol} tests, another validates, the others train.")
        + " Intervals are Student's t over trainings that share seed and fold: they say how far the chance of training "
        "reaches, on these recordings; another machine is another matter. They are not corrected for their number."
    )
    if paper:
        introduction += f" Dashed curves: {SOURCE}; their data and their split are others, so only shapes compare."
    return section(
        f"{noise.capitalize()} noise",
        introduction,
        f'<div class="figures">{"".join(parts)}</div>',
        _accuracy_table(f"Balanced accuracy, {noise} noise", conditions, models),
        _difference_table(f"Points above {summary.reference}, {noise} noise", conditions, models, summary.reference),
        _fold_table(f"Balanced accuracy of each fold, {noise} noise", conditions, models),
        _f1_table(f"Macro F1, {noise} noise", conditions, models),
    )


def _accuracy_table(caption: str, conditions: Sequence[StudyCondition], models: Sequence[str]) -> str:
    rows = [
        [item.name, item.windows, item.draws, *(_spread(_figure(item, model, "balanced_accuracy")) for model in models)]
        for item in conditions
    ]
    return table(caption, ["level", "windows", "draws", *models], rows)


def _difference_table(caption: str, conditions: Sequence[StudyCondition], models: Sequence[str], reference: str) -> str:
    others = [model for model in models if model != reference]
    rows = [
        [item.name, *(_difference(item.models[model].difference) if model in item.models else NONE for model in others)]
        for item in conditions
    ]
    return table(caption, ["level", *others], rows) if others else ""


def _fold_table(caption: str, conditions: Sequence[StudyCondition], models: Sequence[str]) -> str:
    folds = sorted({fold for item in conditions for found in item.models.values() for fold in _folds(found.figures)})
    if len(folds) < 2:
        return ""
    rows = [
        [
            f"{model}, fold {fold}",
            *(percent(spread.folds.get(fold)) if (spread := _figure(item, model, "balanced_accuracy")) else NONE
              for item in conditions),
        ]
        for model in models
        for fold in folds
    ]  # fmt: skip
    return table(caption, ["network", *(item.name for item in conditions)], rows)


def _f1_table(caption: str, conditions: Sequence[StudyCondition], models: Sequence[str]) -> str:
    rows = [[item.name, *(_spread(_figure(item, model, "macro_f1")) for model in models)] for item in conditions]
    return table(caption, ["level", *models], rows)


def _calibration(summary: StudySummary, by_noise: Mapping[str, Sequence[StudyCondition]]) -> str:
    figures = "".join(
        figure(f"{noise.capitalize()} noise; dotted: temperature 1", charts.calibration(conditions))
        for noise, conditions in by_noise.items()
    )
    rows = [
        [model, noise, number(value.mean), number(value.std), value.n]
        for noise, by_model in summary.temperatures.items()
        for model, value in by_model.items()
    ]
    introduction = (
        "Expected calibration error: how far a confidence is from the share of decisions that are right at it, in 15 "
        "bins. The temperature is fitted on the validation part, clean and over the trained range of noise; what lies "
        "outside that range is not covered by it."
    )
    return section(
        "Confidence",
        introduction,
        f'<div class="figures">{figures}</div>',
        table("Temperature", ["network", "noise", "mean", "standard deviation", "trainings"], rows),
    )


def _confusion(summary: StudySummary) -> str:
    matrices = "".join(
        matrix(
            f"{item.model}, {'clean' if item.snr_db is None else f'{item.noise}, {level(item.snr_db)}'}"
            + (f" (trained on {item.noise})" if item.snr_db is None else ""),
            item.counts,
            item.labels,
        )
        for item in summary.confusion
    )
    introduction = "Rows are true classes, columns decisions, in noise draws summed over all trainings."
    return section("Confusion", introduction, f'<div class="figures">{matrices}</div>') if matrices else ""


def _folds(figures: Mapping[str, Spread]) -> Sequence[int]:
    return list(figures["balanced_accuracy"].folds)


def _figure(item: StudyCondition, model: str, name: str) -> Spread | None:
    return item.models[model].figures[name] if model in item.models else None


def _spread(value: Spread | None) -> str:
    if value is None:
        return NONE
    return f"{100 * value.mean:.1f} %" + ("" if value.std is None else f" ± {100 * value.std:.1f}")


def _difference(value: Difference | None) -> str:
    if value is None:
        return NONE
    points = f"{100 * value.mean:+.1f}".replace("-", "−")
    if value.low is None or value.high is None:
        return f"{points} points (n = {value.n}, no interval)"
    ends = f"{100 * value.low:+.1f} to {100 * value.high:+.1f}".replace("-", "−")
    return f"{points} points ({ends}; n = {value.n})"
