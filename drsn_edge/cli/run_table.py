"""What `run` and `score` show in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drsn_edge.pipeline.run import RunResult
from drsn_edge.pipeline.score import FILES, SUMMARY, TABLE, ScoreResult

_COUNTERS = ("windows", "unknown", "late", "gaps", "overruns", "clipped", "flat", "nan", "alarms")


def run_table(result: RunResult) -> str:
    """Counters of every sensor, one line each."""
    if result.planned:
        lines = [f"would run {result.bundle} with {result.runner} on:"]
        return "\n".join(lines + [f"  {name}: {item['source']}" for name, item in result.sensors.items()])
    width = max(6, *(len(name) for name in result.sensors))
    lines = [f"{'sensor':<{width}}" + "".join(f"{name:>10}" for name in _COUNTERS) + "  state"]
    for name, item in result.sensors.items():
        counts = "".join(f"{item['counters'][key]:>10}" for key in _COUNTERS)
        drift = ", thresholds outside of their range" if item["drift"] else ""
        lines.append(f"{name:<{width}}{counts}  {item['state']}{drift}")
    rate = result.windows / result.seconds if result.seconds else 0.0
    lines.append(f"{result.windows} windows with {result.runner} in {result.seconds:.1f} s, {rate:.0f} a second")
    if result.latency.get("p99_ms") is not None:
        lines.append(
            f"from last sample to decision: p50 {result.latency['p50_ms']} ms, p99 {result.latency['p99_ms']} ms"
        )
    for item in result.outputs:
        problem = f", {item['lost']} lost: {item['error']}" if item["lost"] else ""
        lines.append(f"{item['target']}: {item['lines']} lines{problem}")
    for item in result.commands:
        lines.append(f"{item['command']}: {item['started']} times, {item['failed']} failed, {item['skipped']} skipped")
    if result.clock_jumps:
        lines.append(f"the clock was set {result.clock_jumps} times")
    return "\n".join(lines)


def told(record: Mapping[str, Any]) -> str | None:
    """A line for people about everything but decisions."""
    if record["type"] == "decision":
        return None
    details = ", ".join(
        f"{key} {value}"
        for key, value in record.items()
        if key not in ("type", "sensor", "kind", "event", "start", "t_s", "time") and value is not None
    )
    when = record.get("time") or (f"{record['t_s']} s" if "t_s" in record else "")
    words = (record["sensor"], record["type"], record.get("kind"), record.get("event"))
    return " ".join(str(word) for word in (when, *words) if word) + (f": {details}" if details else "")


def score_table(result: ScoreResult) -> str:
    """What the recordings say, all together."""
    if result.planned:
        return f"would score {result.files - result.resumed} of {result.files} recordings into {result.out}"
    lines = [
        f"{result.scored} recordings scored, {result.failed} failed, {result.resumed} of them before",
        f"{result.seconds / 3600:.2f} hours of signal, {result.windows} windows",
    ]
    for label, count in [*result.counts.items(), ("unknown", result.unknown)]:
        lines.append(f"  {label:<24}{count:>12}{100 * count / max(1, result.decided):>9.2f} %")
    damaged = ", ".join(f"{getattr(result, name)} {name}" for name in ("clipped", "flat", "nan"))
    raised = ", ".join(f"{result.alarms.get(kind, 0)} of {kind}" for kind in ("state", "drift", "input"))
    lines += [f"windows {damaged}", f"alarms {raised}"]
    lines += [f"failed  {count:>6}  {what}" for what, count in result.failures.items()]
    return "\n".join([*lines, f"{result.out}: {TABLE}, {SUMMARY}, {FILES}/"])
