"""Do the stated 95 % intervals hold the truth? Simulated draws that cluster by window, with known rates.

Every window has a rate of its own, drawn from a beta distribution with the given mean and correlation of draws within
a window; each of its draws shows the event with that rate. For every setting the interval of `parity.intervals` is
computed over and over, and counted is how often it holds the mean.

The claim, 93.5 to 97.5 %, covers the settings in which at least 10 windows can show the event and at least 20 draws
are expected to. With fewer the upper end cannot be missed, and the interval is conservative: more than 97.5 %, never
less than 93.5 %. The last column says which settings those are.

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

from drsn_edge.parity import intervals

RATES = (0.003, 0.01, 0.03, 0.1)
CORRELATIONS = (0.0, 0.05, 0.1, 0.3)
WINDOWS, DRAWS = (60, 250), (10, 40)
LOW, HIGH = 0.935, 0.975


def rates(rng: np.random.Generator, rate: float, correlation: float, shape: tuple[int, int]) -> NDArray[np.float64]:
    """One rate per window."""
    if correlation == 0:
        return np.full(shape, rate)
    strength = (1 - correlation) / correlation
    return rng.beta(rate * strength, (1 - rate) * strength, shape)


def covered(rate: float, correlation: float, windows: int, draws: int) -> bool:
    """Whether the claim speaks of this setting."""
    can_show = windows * min(1.0, rate / max(correlation, 1e-9))
    return can_show >= 10 and rate * windows * draws >= 20


def setting(rate: float, correlation: float, windows: int, draws: int, *, repetitions: int) -> dict[str, Any]:
    """Coverage of the clustered interval, and of Wilson's as if draws were independent."""
    rng = np.random.default_rng(12)
    events = rng.binomial(draws, rates(rng, rate, correlation, (repetitions, windows)))
    each = np.full(windows, draws)
    held = below = above = naive = 0
    for row in events:
        found = intervals.clustered_counts(row, each)
        held += found.low <= rate <= found.high
        below += found.high < rate
        above += found.low > rate
        low, high = intervals.wilson(int(row.sum()), windows * draws)
        naive += low <= rate <= high
    return {
        "rate": rate, "correlation": correlation, "windows": windows, "draws": draws,
        "coverage": held / repetitions, "too_low": below / repetitions, "too_high": above / repetitions,
        "coverage_unclustered_wilson": naive / repetitions,
        "covered_by_the_claim": covered(rate, correlation, windows, draws),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="100 repetitions")
    parser.add_argument("--json", action="store_true", help="only the JSON document on stdout")
    args = parser.parse_args()
    repetitions = 100 if args.quick else args.repetitions
    began = time.process_time()
    rows = [setting(*item, repetitions=repetitions) for item in itertools.product(RATES, CORRELATIONS, WINDOWS, DRAWS)]
    claimed = [row for row in rows if row["covered_by_the_claim"]]
    inside = [LOW <= row["coverage"] <= HIGH for row in claimed]
    others = [row["coverage"] for row in rows if not row["covered_by_the_claim"]]
    summary = {
        "repetitions": repetitions,
        "settings": len(rows),
        "claimed": len(claimed),
        "claimed_inside": sum(inside),
        "claimed_coverage": [min(row["coverage"] for row in claimed), max(row["coverage"] for row in claimed)],
        "other_coverage": [min(others), max(others)],
        "lowest_coverage": min(row["coverage"] for row in rows),
        "unclustered_wilson_coverage": [
            min(row["coverage_unclustered_wilson"] for row in rows),
            max(row["coverage_unclustered_wilson"] for row in rows),
        ],
        "cpu_seconds": time.process_time() - began,
    }
    if not args.json:
        print(f"{'rate':>6}{'correlation':>12}{'windows':>9}{'draws':>7}{'coverage %':>12}{'naive %':>9}  claimed")
        for row in rows:
            print(
                f"{row['rate']:>6.3f}{row['correlation']:>12.2f}{row['windows']:>9}{row['draws']:>7}"
                f"{100 * row['coverage']:>12.1f}{100 * row['coverage_unclustered_wilson']:>9.1f}"
                f"  {'yes' if row['covered_by_the_claim'] else 'no'}"
            )
    print(json.dumps({"rows": rows, "summary": summary}, indent=1))


if __name__ == "__main__":
    main()
