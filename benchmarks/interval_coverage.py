"""Do the stated 95 % intervals hold the truth? Simulated draws that cluster by window, as `verify` sweeps them.

Every window has a rate of its own and several draws, 10 to 40; each draw shows the event with the window's rate. Rates
of windows are equal (`independent`), beta distributed with a given correlation of draws within a window (`beta`), or
come from a margin (`margin`): a draw changes where a Gaussian, of which the window has the given share and the draw the
rest, exceeds a bound. The last is how decisions change, and no beta distribution. In every setting the interval of
`parity.intervals` is computed for each repetition, all of them at once, and counted is how often it holds the mean.

The claim, 93.5 to 97.5 %, covers the settings in which at least 10 windows and 30 draws are expected to show the event.
With fewer the count is too coarse for that: rates below the upper end that no event gives cannot be missed from below,
and 97.5 % and more is what remains. There the claim is at least 93.5 %. None is made where windows change in nearly
every draw or in none (`beta` 0.6) and fewer than 10 show it; what happens then is shown. `low` is how often the whole
interval lies below the truth, which is what lets a bad variant pass; `naive` is Wilson's interval as if draws were
independent.

    python -m benchmarks.interval_coverage [--repetitions 2000] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from drsn_edge.parity import intervals

RATES = (0.001, 0.005, 0.02, 0.05, 0.2)
MODELS = (("independent", 0.0), ("beta", 0.1), ("beta", 0.3), ("margin", 0.5), ("margin", 0.8), ("beta", 0.6))
# Windows, draws of each, draws of every eighth: shifts of clean windows do not all fit at the end of a recording.
LAYOUTS = ((50, 10, 10), (50, 40, 40), (120, 10, 10), (120, 40, 20), (400, 10, 10), (400, 40, 40))
LOW, HIGH = 0.935, 0.975
WINDOWS_SHOWING, DRAWS_SHOWING = 10, 30


def rates(
    rng: np.random.Generator, model: str, rate: float, strength: float, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """One rate per window."""
    if model == "independent":
        return np.full(shape, rate)
    if model == "beta":
        size = (1 - strength) / strength
        return rng.beta(rate * size, (1 - rate) * size, shape)
    own = np.sqrt(strength) * rng.standard_normal(shape)
    return np.asarray(ndtr((ndtri(rate) + own) / np.sqrt(1 - strength)), dtype=np.float64)


def setting(
    model: tuple[str, float], rate: float, layout: tuple[int, int, int], *, repetitions: int, seed: int
) -> dict[str, Any]:
    """Coverage of the clustered interval, and of Wilson's as if draws were independent."""
    windows, most, eighth = layout
    draws = np.full(windows, most)
    draws[7::8] = eighth
    rng = np.random.default_rng(seed)
    own = rates(rng, model[0], rate, model[1], (repetitions, windows))
    events = rng.binomial(draws, own)
    _, low, high, _ = intervals.clustered_ends(events, draws)
    naive = [intervals.wilson(count, int(draws.sum())) for count in events.sum(axis=1).tolist()]
    showing = float((events > 0).sum(axis=1).mean())
    return {
        "model": model[0], "strength": model[1], "correlation": float(own.var() / (rate * (1 - rate))), "rate": rate,
        "windows": windows, "draws": int(draws.sum()),
        "windows_showing": showing, "draws_showing": rate * int(draws.sum()),
        "coverage": float(np.mean((low <= rate) & (rate <= high))),
        "too_low": float(np.mean(high < rate)), "too_high": float(np.mean(low > rate)),
        "coverage_unclustered_wilson": float(np.mean([one <= rate <= other for one, other in naive])),
        "claim": _claim(model, showing, rate * int(draws.sum())),
    }  # fmt: skip


def _claim(model: tuple[str, float], windows: float, draws: float) -> str:
    """What is claimed: coverage inside both limits, at least the lower one, or nothing."""
    if windows >= WINDOWS_SHOWING and draws >= DRAWS_SHOWING:
        return "inside"
    return "none" if model == ("beta", 0.6) and windows < WINDOWS_SHOWING else "at least"


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that are promised."""
    inside, at_least, none = (
        [row["coverage"] for row in rows if row["claim"] == claim] for claim in ("inside", "at least", "none")
    )
    naive = [row["coverage_unclustered_wilson"] for row in rows]
    return {
        "settings": len(rows),
        "claimed": len(inside),
        "claimed_inside": sum(LOW <= value <= HIGH for value in inside),
        "claimed_coverage": [min(inside), max(inside)],
        "conservative": len(at_least),
        "conservative_not_below": sum(value >= LOW for value in at_least),
        "conservative_coverage": [min(at_least), max(at_least)],
        "not_claimed": len(none),
        "not_claimed_coverage": [min(none), max(none)],
        "most_too_low": max(row["too_low"] for row in rows if row["claim"] != "none"),
        "unclustered_wilson_coverage": [min(naive), max(naive)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="100 repetitions")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="only the JSON document on stdout")
    args = parser.parse_args()
    repetitions = 100 if args.quick else args.repetitions
    began = time.process_time()
    rows: list[dict[str, Any]] = []
    if not args.json:
        print(f"{'rates':<12}{'share':>6}{'rate %':>8}{'windows':>9}{'draws':>7}", end="")
        print(f"{'holds %':>9}{'low %':>8}{'naive %':>9}  claim")
    for index, (model, rate, layout) in enumerate(itertools.product(MODELS, RATES, LAYOUTS)):
        row = setting(model, rate, layout, repetitions=repetitions, seed=args.seed + index)
        rows.append(row)
        if not args.json:
            print(
                f"{row['model']:<12}{row['strength']:>6.1f}{100 * rate:>8.1f}{row['windows']:>9}{row['draws']:>7}"
                f"{100 * row['coverage']:>9.1f}{100 * row['too_low']:>8.1f}"
                f"{100 * row['coverage_unclustered_wilson']:>9.1f}  {row['claim']}",
                flush=True,
            )
    found = {"repetitions": repetitions, **summary(rows), "cpu_seconds": time.process_time() - began}
    print(json.dumps({"rows": rows, "summary": found}, indent=1))


if __name__ == "__main__":
    main()
