"""docs/serving.md: the service that it describes can be read, and names what `drsn-edge triton` writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_service_is_one_of_kserve() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the description of the service")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    service = yaml.safe_load(block)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] <= predictor["maxReplicas"]
    assert predictor["model"]["modelFormat"] == {"name": "triton"}
    assert predictor["model"]["protocolVersion"] == "v2"
    # The repository of the page's first command.
    out = re.search(r"drsn-edge triton \S+ --out (\S+)", PAGE)
    assert out is not None
    assert predictor["model"]["storageUri"].rpartition("/")[2] == out[1]
    assert service["metadata"]["name"] == "cw"
