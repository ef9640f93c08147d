"""The figures of a study. Each takes conditions of one noise and gives an `<svg>` element, or nothing without data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drsn_edge.parity.published import SNRS_DB, published
from drsn_edge.parity.study_summary import ModelFigures, StudyCondition
from drsn_edge.report.charts import level_places
from drsn_edge.report.svg import INK, draw
from drsn_edge.report.text import percent

# Okabe and Ito's palette, told apart by people with any common colour vision; markers tell lines apart in print.
_LOOK = {
    "convnet": ("#8A8A8A", "v"),
    "resnet": (INK, "o"),
    "senet": ("#E69F00", "P"),
    "drsn-cs": ("#0072B2", "s"),
    "drsn-cw": ("#D55E00", "D"),
}
_OTHER = ("#009E73", "*")


def _look(model: str) -> dict[str, Any]:
    colour, marker = _LOOK.get(model, _OTHER)
    return {"color": colour, "marker": marker, "markeredgecolor": colour}


def accuracy(conditions: Sequence[StudyCondition], *, paper: bool) -> str | None:
    """Balanced accuracy over the noise levels, mean and standard deviation over runs; dashed, the paper's curves."""
    models = models_of(conditions)
    if not models:
        return None
    noise, hardest = conditions[0].noise, _hardest(conditions)
    said = ", ".join(
        f"{model} {percent(hardest.models[model].figures['balanced_accuracy'].mean)}"
        for model in models
        if model in hardest.models
    )

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        places = level_places(axes, [condition.snr_db for condition in conditions])
        for index, model in enumerate(models):
            rows = _rows(conditions, places, model)
            values = [found.figures["balanced_accuracy"] for _, found in rows]
            axes.errorbar(
                [place + _aside(index, len(models)) for place, _ in rows],
                [100 * value.mean for value in values],
                yerr=[100 * (value.std or 0.0) for value in values],
                label=model,
                capsize=2,
                elinewidth=0.9,
                **_look(model),
            )
        for model in models:
            curve = published(noise, model) if paper else None
            if curve is not None:
                style = {"color": _LOOK[model][0], "linestyle": (0, (4, 2)), "linewidth": 1, "alpha": 0.75}
                axes.plot(SNRS_DB, [100 * share for share in curve], label=f"{model}, the paper's rig", **style)
        axes.set_xlim(min(places) - 1, max(places) + 1)
        axes.set_ylabel("balanced accuracy, %")
        handles, names = axes.get_legend_handles_labels()  # matplotlib puts plain lines before those with error bars
        order = sorted(range(len(names)), key=lambda index: names[index] not in models)
        figure.legend(
            [handles[index] for index in order], [names[index] for index in order], loc="outside lower center", ncols=2
        )

    label = f"Balanced accuracy against signal-to-noise ratio, {noise} noise; at {hardest.name}: {said}."
    return draw(f"study-accuracy-{noise}", label, build, height=4.2)


def differences(conditions: Sequence[StudyCondition], reference: str) -> str | None:
    """Points above the reference over the noise levels, with 95 % intervals where there are enough runs."""
    models = [
        model
        for model in models_of(conditions)
        if any(model in item.models and item.models[model].difference is not None for item in conditions)
    ]
    if not models:
        return None
    noise, hardest = conditions[0].noise, _hardest(conditions)
    said = ", ".join(
        f"{model} {100 * found.difference.mean:+.1f} points"
        for model in models
        if (found := hardest.models.get(model)) is not None and found.difference is not None
    )

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        places = level_places(axes, [condition.snr_db for condition in conditions])
        axes.axhline(0, color=INK, linewidth=0.8)
        for index, model in enumerate(models):
            rows = [
                (place, found.difference)
                for place, found in _rows(conditions, places, model)
                if found.difference is not None
            ]
            spread = [
                [0.0 if item.low is None else 100 * (item.mean - item.low) for _, item in rows],
                [0.0 if item.high is None else 100 * (item.high - item.mean) for _, item in rows],
            ]
            axes.errorbar(
                [place + _aside(index, len(models)) for place, _ in rows],
                [100 * item.mean for _, item in rows],
                yerr=spread,
                label=model,
                capsize=2,
                elinewidth=0.9,
                linestyle="none",
                **_look(model),
            )
        axes.set_ylabel(f"points above {reference}")
        figure.legend(loc="outside lower center", ncols=3)

    label = f"Difference to {reference} against signal-to-noise ratio, {noise} noise; at {hardest.name}: {said}."
    return draw(f"study-difference-{noise}", label, build, height=3.4)


def calibration(conditions: Sequence[StudyCondition]) -> str | None:
    """Expected calibration error over the noise levels, with the fitted temperature and (dotted) without."""
    models = models_of(conditions)
    if not models:
        return None
    noise = conditions[0].noise

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        places = level_places(axes, [condition.snr_db for condition in conditions])
        for model in models:
            rows = _rows(conditions, places, model)
            at = [place for place, _ in rows]
            scaled = [100 * found.figures["calibration_error_scaled"].mean for _, found in rows]
            plain = [100 * found.figures["calibration_error"].mean for _, found in rows]
            axes.plot(at, scaled, label=model, **_look(model))
            axes.plot(at, plain, color=_look(model)["color"], linestyle=":")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("calibration error, %")
        figure.legend(loc="outside lower center", ncols=3)

    worst = max(found.figures["calibration_error_scaled"].mean for item in conditions for found in item.models.values())
    label = f"Expected calibration error against signal-to-noise ratio, {noise} noise; at most {percent(worst)}."
    return draw(f"study-calibration-{noise}", label, build, height=3.4)


def models_of(conditions: Sequence[StudyCondition]) -> list[str]:
    """The networks that occur, in the order of the study."""
    return list(dict.fromkeys(model for condition in conditions for model in condition.models))


def _hardest(conditions: Sequence[StudyCondition]) -> StudyCondition:
    return min(conditions, key=lambda item: float("inf") if item.snr_db is None else item.snr_db)


def _rows(
    conditions: Sequence[StudyCondition], places: Sequence[float], model: str
) -> list[tuple[float, ModelFigures]]:
    """Place and figures of a network, from left to right."""
    found = zip(places, conditions, strict=True)
    return sorted(
        ((place, item.models[model]) for place, item in found if model in item.models), key=lambda row: row[0]
    )


def _aside(index: int, count: int) -> float:
    """Networks may be equally good: a little aside, or one would hide the others."""
    return 0.14 * (index - (count - 1) / 2)
