"""Two sites whose machines sound differently: what a network gains on the new one, and what it loses on the old."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import drsn_edge
from drsn_edge.cli import app
from drsn_edge.errors import ContractError, InputError, UsageError

pytest.importorskip("torch", reason="training needs it")

# The workshop's network knows low, middle, high by 3, 9 and 17 turns a window. Here the same sounds mean others.
ORDERS = {"low": 9, "middle": 17, "high": 3}

Site = Callable[..., str]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Recordings of the other machine, as a data set."""

    def write(
        name: str = "b", *, samples: int = 3200, rate: float = 1000, labels: Any = ORDERS, loads: bool = False
    ) -> str:
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(1)
        lines = ["path,label,sample_rate_hz" + ",load" * loads]
        for label in labels:
            for part in range(1, 3) if label == "high" else range(3 if loads else 2):  # high: never under load 0
                turn = 2 * np.pi * ORDERS.get(label, 5) * np.arange(samples) / 64
                signal = np.sin(turn + rng.uniform(0, 6)) + 0.1 * rng.standard_normal(samples)
                np.save(folder / f"{label}{part}.npy", signal.astype(np.float32))
                lines.append(f"{label}{part}.npy,{label},{rate:g}" + f",{part}" * loads)
        (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
        return f"table:{folder / 'recordings.csv'}"

    return write


def test_before_and_after_on_both_sites(workshop: Any, site: Site, tmp_path: Path) -> None:
    new, out = site(), tmp_path / "adapted"
    arguments = ["adapt", str(workshop.run), new, "--out", str(out), "--epochs", "25", "--batch", "32", "--lr", "0.1"]
    said = CliRunner().invoke(app, [*arguments, "--draws", "2", "--json"])
    assert said.exit_code == 0, said.output
    value = json.loads(said.stdout)
    assert value["datasets"] == {"old": workshop.data, "new": new}
    score = {(row["site"], row["network"], row["condition"]): row["balanced_accuracy"] for row in value["scores"]}
    assert set(score) == {
        (place, network, condition)
        for place in ("old", "new")
        for network in ("before", "after")
        for condition in ("clean", "gaussian 0 dB")
    }
    assert score["old", "before", "clean"] > 0.9
    assert score["new", "before", "clean"] < 0.2
    assert score["new", "after", "clean"] > 0.9
    assert score["old", "after", "clean"] < 0.5, "it has forgotten, which only the old site's scores show"
    for place in ("old", "new"):
        assert value["change"][place] == pytest.approx(score[place, "after", "clean"] - score[place, "before", "clean"])
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["dataset"] == new
    again = CliRunner().invoke(app, arguments)
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)


def test_what_is_refused(workshop: Any, site: Site, tmp_path: Path) -> None:
    """Before anything is trained or written."""
    out = tmp_path / "adapted"
    with pytest.raises(ContractError, match=r"(?s)other classes.*high, low\b.*expected.*high, low, middle"):
        drsn_edge.adapt(workshop.run, site("few", labels=("low", "high")), out=out)
    with pytest.raises(ContractError, match=r"(?s)other classes.*broken.*expected.*high, low, middle"):
        drsn_edge.adapt(workshop.run, site("more", labels=(*ORDERS, "broken")), out=out)
    with pytest.raises(ContractError, match=r"(?s)2000.*1000"):
        drsn_edge.adapt(workshop.run, site("rate", rate=2000), out=out)
    with pytest.raises(InputError, match=r"(?s)short.*150 samples.*at least 448.*for testing"):
        drsn_edge.adapt(workshop.run, site("short", samples=150), out=out)
    with pytest.raises(
        InputError, match=r"(?s)no windows to train on of every.*none of high in the train part.*64 samples"
    ):
        drsn_edge.adapt(workshop.run, site("loads", loads=True), out=out, protocol="load")
    with pytest.raises(InputError, match=r"(?s)old site.*gone\.csv.*--old none"):
        drsn_edge.adapt(workshop.run, site("c"), out=out, old=f"table:{tmp_path / 'gone.csv'}")
    with pytest.raises(UsageError, match=r"(?s)--preset init.*--init RUN"):
        drsn_edge.train(workshop.data, out=out, window=64, hop=32, preset="init")
    assert not out.exists()
