"""`export --pad-channels`: another graph, the same network to everybody who looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drsn_edge.bundle import Bundle
from drsn_edge.errors import UsageError
from drsn_edge.golden import Golden
from drsn_edge.pipeline.export import ExportOptions, check_export, export
from drsn_edge.pipeline.sweep import SweepOptions


def test_a_padded_bundle_passes_and_says_that_it_is_padded(workshop: Any, tmp_path: Path) -> None:
    options = ExportOptions(precisions=("fp32", "fp16"), pad_channels=8, engines=(), report=False)
    result = export(workshop.run, out=tmp_path / "wide.drsn", options=options, sweep=SweepOptions(draws=1, snrs_db=()))
    assert result.parity.passed
    wide, narrow = Bundle.open(tmp_path / "wide.drsn"), Bundle.open(workshop.bundle)
    assert (wide.manifest["model"]["padded_channels"], narrow.manifest["model"]["padded_channels"]) == (8, None)
    assert wide.units == narrow.units
    assert wide.manifest["model"]["fp16_ranges"]["named"] == [] or "subnormal" in str(result.notes)
    golden, plain = (Golden.from_bytes(bundle.read("golden.npz")) for bundle in (wide, narrow))
    assert {name: value.shape[1:] for name, value in golden.thresholds.items()} == {
        name: value.shape[1:] for name, value in plain.thresholds.items()
    }


def test_a_multiple_that_means_nothing_is_refused_before_any_work(workshop: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="padded to this multiple") as caught:
        check_export(workshop.run, out=tmp_path / "x.drsn", options=ExportOptions(pad_channels=1, engines=()))
    assert "2 to 256" in str(caught.value.expected)
