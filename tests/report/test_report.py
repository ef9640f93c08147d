from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import InputError, MissingDependency
from drsn_edge.files import dump_json
from drsn_edge.parity.result import ParityResult
from drsn_edge.report import charts, text, window_charts
from drsn_edge.report.data import Example, ReportData
from drsn_edge.report.page import render, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
NASTY = "<script>alert('1')</script> & \"quoted\""


class Page(HTMLParser):
    """Checks nesting, and keeps what the tests ask for."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.words: list[str] = []
        self.attributes: set[str] = set()
        self.feed(source)
        self.close()
        assert self.open == [], f"unclosed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = {name: value or "" for name, value in attrs}
        self.attributes |= set(given)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href", "action", "data") if name in given]
        self.labels += [given["aria-label"]] if tag == "svg" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def source(make_report: Callable[..., ReportData]) -> str:
    return render(make_report())


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_the_page_is_well_formed_and_has_every_section(page: Page) -> None:
    said = " ".join(page.words)
    for heading in ("Decisions", "Shrinkage drift", "Error ledger", "Confusion", "One window", "Worst windows"):
        assert heading in said
    for heading in ("Precision plan", "Engines", "Model", "Provenance", "Files"):
        assert heading in said
    assert page.tags["h1"] == 1
    assert page.tags["main"] == 1


def test_the_verdict_comes_first(source: str) -> None:
    body = source[source.index("<body>") :]
    assert body.index('class="verdict"') < body.index("<svg")
    assert "at least 97 of 100" in body[: body.index("<svg")]


def test_nothing_is_loaded_from_anywhere(source: str, page: Page) -> None:
    assert "://" not in source
    assert "@import" not in source
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert all(link.startswith("#") for link in page.links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", source))


def test_references_inside_figures_lead_somewhere_and_ids_are_unique(source: str, page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links} | set(re.findall(r"url\(#([^)]*)\)", source))
    assert targets
    assert targets <= set(page.ids)


def test_every_figure_is_drawn_and_described(source: str, page: Page) -> None:
    figures = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
    assert len(figures) == 7
    for figure in figures:
        assert figure.count("<path") >= 3
        assert re.search(r'viewBox="0 0 [\d.]+ [\d.]+"', figure)
        assert "currentColor" in figure
        assert "#010203" not in figure
    assert all(len(label) > 30 for label in page.labels)
    assert any("onnx-int8" in label and "%" in label for label in page.labels)


def test_figures_show_the_figures(make_parity: Callable[..., ParityResult]) -> None:
    result = make_parity()
    points = [point for point in result.decisions if point.snr_db is not None]
    drawn = charts.changed(points, "gaussian", result.gate)
    assert drawn is not None
    # one marker per variant and level, two limits; fp32 changes nothing and is left out
    assert len(re.findall(r"<use ", drawn)) >= 2 * len(points)
    said = re.sub(r"<[^>]+>|\s+", " ", drawn)
    for words in ("limit int8", "3.00 %", "limit fp16", "0.50 %"):
        assert words in said
    assert "onnx-fp32" not in drawn
    hops = charts.hops(result.hops)
    assert hops is not None
    assert "onnx-int8 → engine-int8: not run" in hops


def test_strings_from_outside_are_escaped(make_report: Callable[..., ReportData]) -> None:
    base = make_report()
    parity = json.loads(json.dumps(base.parity).replace("no GPU", "NASTY").replace("units.3", "units.NASTY"))
    worst = [dataclasses.replace(item, caption=NASTY, units=NASTY, decided=NASTY, variant=NASTY) for item in base.worst]
    parity["hops"][3]["reason"] = parity["hops"][0]["runner"] = NASTY
    parity["shrinkage"][0]["unit"] = parity["decisions"][0]["noise"] = NASTY
    parity["notes"] = [NASTY]
    parity["failures"] = [{"where": NASTY, "what": NASTY, "value": 1.0, "limit": 0.5}]
    example = dataclasses.replace(base.example, caption=NASTY, unit=NASTY, units=NASTY) if base.example else None
    dirty = dataclasses.replace(
        base,
        title=NASTY,
        verdict=NASTY,
        parity=parity,
        model={NASTY: NASTY},
        provenance={NASTY: [NASTY]},
        plan=[{NASTY: NASTY}],
        engines=[{NASTY: {NASTY: NASTY}}],
        files=[{"name": NASTY, "size": 3}],
        labels=[NASTY] * 6,
        example=example,
        worst=worst,
    )
    source = render(dirty)
    assert "<script" not in source
    page = Page(source)
    assert page.tags["script"] == 0
    assert not [name for name in page.attributes if "quoted" in name or "script" in name]
    assert source.count("&lt;script&gt;") > 15


def test_a_failed_result_says_why(make_report: Callable[..., ReportData], make_parity: Callable[..., Any]) -> None:
    source = render(make_report(parity=make_parity(damage=16).to_json(), verdict="It does not decide alike."))
    assert 'class="verdict bad"' in source
    assert "Out of tolerance" in source
    assert re.search(r"onnx-int8 at gaussian -4 dB: upper end of changed decisions is [\d.]+ %, limit 3.00 %", source)


def test_a_report_with_next_to_nothing() -> None:
    source = render(ReportData("empty.drsn", "Nothing was run.", ParityResult("pytorch").to_json()))
    assert Page(source).tags["svg"] == 0
    assert "Nothing was run." in source
    assert "Precision plan" not in source


def test_infinite_and_missing_figures_can_be_drawn(make_parity: Callable[..., ParityResult]) -> None:
    result = make_parity()
    bad = dataclasses.replace(result.hops[1].error, rmse=np.inf, sqnr_db=-np.inf, max_abs=np.inf, nonfinite=4)  # type: ignore[type-var]
    hops = tuple(dataclasses.replace(hop, error=bad) if index == 1 else hop for index, hop in enumerate(result.hops))
    drift = (
        dataclasses.replace(result.shrinkage[0], tau_relative_error=np.inf, dead_zone_flips=None),
        *result.shrinkage[1:],
    )
    broken = dataclasses.replace(result, hops=hops, shrinkage=drift).judged()
    source = render(ReportData("bad.drsn", "Broken.", json.loads(dump_json(broken.to_json()))))
    assert "NaN or infinity" in source
    assert "∞" in source
    Page(source)


def test_one_noise_level_is_enough(make_parity: Callable[..., ParityResult]) -> None:
    result = make_parity()
    clean = dataclasses.replace(result, decisions=result.decisions[:1])
    page = Page(render(ReportData("clean.drsn", "Clean only.", clean.to_json())))
    assert page.tags["svg"] == 5
    assert any("no noise" in label for label in page.labels)


def test_equal_reports_give_equal_bytes(make_report: Callable[..., ReportData], tmp_path: Path, source: str) -> None:
    write_report(tmp_path / "report.html", make_report())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == source
    assert len(source) < 500_000


def test_json_round_trip(make_report: Callable[..., ReportData], source: str) -> None:
    base = make_report()
    again = ReportData.from_json(json.loads(json.dumps(base.to_json())))
    assert again.example is None
    assert render(dataclasses.replace(again, example=base.example, worst=base.worst)) == source
    assert dump_json(again.to_json()) == dump_json(base.to_json())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 9}, ["format_version 9", "format_version 1"]),
        ({"plan": None}, ["no plan", "engines"]),
    ],
)
def test_saved_reports_that_cannot_be_read(
    make_report: Callable[..., ReportData], change: dict[str, Any], words: list[str]
) -> None:
    saved = {**make_report().to_json(), **change}
    saved = {name: value for name, value in saved.items() if value is not None}
    with pytest.raises(InputError) as caught:
        ReportData.from_json(saved)
    for word in words:
        assert word in str(caught.value)


def test_an_example_that_cannot_be_drawn() -> None:
    with pytest.raises(InputError) as caught:
        Example(np.zeros((1, 8)), 100.0, "g", "", "units.0", np.zeros(4), np.zeros(4), 0.1)
    assert "(1, 8)" in str(caught.value)
    assert "one channel" in str(caught.value)


def test_without_matplotlib_the_command_that_installs_it_is_named(
    make_report: Callable[..., ReportData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency) as caught:
        render(make_report())
    assert "matplotlib" in str(caught.value)
    assert "drsn-edge[report]" in str(caught.value)


def test_thinning_keeps_the_peaks() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    values[777], values[12_345] = 50, -50
    place, kept = window_charts._thin(np.arange(20_000), values)
    assert len(kept) <= 1500
    assert (kept.max(), kept.min()) == (50, -50)
    assert np.array_equal(values[place], kept)
    assert np.all(np.diff(place) >= 0)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.9996, "99.96 %"),
        (0.00792, "0.79 %"),
        (0.317, "31.7 %"),
    ],
)
def test_percentages(share: float | None, said: str) -> None:
    assert text.percent(share) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (True, "yes"),
        (1e-6, "1e−06"),
        ({"a": 1, "b": [2, 3.5]}, "a 1, b 2, 3.5"),
        (float("-inf"), "−∞"),
    ],
)
def test_values_in_words(value: Any, said: str) -> None:
    assert text.plain(value) == said


@pytest.mark.parametrize(("count", "said"), [(3, "3 B"), (41_280, "41.3 kB"), (4_128_040, "4.13 MB")])
def test_sizes(count: int, said: str) -> None:
    assert text.size(count) == said


def test_layers_of_the_same_kind_share_a_row(source: str) -> None:
    plan = source[source.index("<h2>Precision plan") : source.index("<h2>Engines")]
    assert plan.count("convolution on shrunk features") == 1
    assert plan.count("<tr>") == 3  # the heading and two kinds
    assert "units.0–2.conv1, units.0–2.conv2" in plan


def test_a_dash_stands_where_its_column_stands() -> None:
    told = text.table("hops", ["hop", "limit", "figure"], [["one", "max abs", 1.0], ["two", None, None]])
    assert told.count('<td class="n">–</td>') == 1
    assert told.count("<td>–</td>") == 1
