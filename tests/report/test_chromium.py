"""The report in a real browser: nothing is logged, nothing is fetched, every figure is drawn, nothing runs over."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.report.data import ReportData
from drsn_edge.report.page import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")

# Whatever a page wants from elsewhere is refused, and the refusal is an error on the console.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
MEASURE = """
addEventListener('load', () => {
  const figures = [...document.querySelectorAll('svg')].map(svg => {
    const box = svg.getBoundingClientRect();
    const parts = [...svg.querySelectorAll('path,use,text,image')].map(part => part.getBoundingClientRect());
    const drawn = parts.filter(part => part.width + part.height > 0);
    const inside = drawn.filter(part => part.right > box.left - 2 && part.left < box.right + 2);
    const right = Math.max(0, ...drawn.map(part => part.right));
    return {name: svg.getAttribute('aria-label'), width: box.width, height: box.height, drawn: drawn.length,
            inside: inside.length, over: right - innerWidth};
  });
  const colours = getComputedStyle(document.body);
  const found = {figures, width: innerWidth, needed: document.documentElement.scrollWidth,
                 ink: colours.color, paper: colours.backgroundColor,
                 entries: performance.getEntriesByType('resource').length};
  const told = document.createElement('pre');
  told.id = 'found';
  told.textContent = JSON.stringify(found);
  document.body.append(told);
});
"""


def browse(source: str, folder: Path, *, width: int = 1280, dark: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What a browser finds on a page, and what it writes on its console."""
    head = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><script>{MEASURE}</script>'
    page = folder / "page.html"
    page.write_text(source.replace("<head>", f"<head>{head}", 1), encoding="utf-8")
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        "--log-level=0", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom",
    ]  # fmt: skip
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=180, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(unescape(found.group(1))), said


def test_the_browser_tells_on_a_page_that_errs(tmp_path: Path) -> None:
    """Without this the tests below could pass for want of hearing."""
    bad = (
        "<!DOCTYPE html><html><head></head><body style='width:3000px'>"
        "<img src='https://example.invalid/x.png'><svg viewBox='0 0 9 9' aria-label='nothing'></svg>"
        "<script>missing()</script></body></html>"
    )
    found, said = browse(bad, tmp_path)
    assert any("missing is not defined" in line for line in said)
    assert any("example.invalid" in line for line in said)
    assert found["figures"][0]["drawn"] == 0
    assert found["needed"] > found["width"]


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)], ids=["phone, dark", "desktop"])
def test_the_report_in_a_browser(
    make_report: Callable[..., ReportData], tmp_path: Path, width: int, dark: bool
) -> None:
    found, said = browse(render(make_report()), tmp_path, width=width, dark=dark)
    assert said == []
    assert found["entries"] == 0
    assert found["needed"] <= found["width"], "the page runs over its width"
    assert len(found["figures"]) == 7
    for figure in found["figures"]:
        assert figure["drawn"] >= 10, figure["name"]
        assert figure["inside"] == figure["drawn"], figure["name"]
        assert min(figure["width"], figure["height"]) > 100, figure["name"]
        assert figure["over"] <= 2, figure["name"]
    ink, paper = (sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("ink", "paper"))
    assert (ink > paper) is dark
