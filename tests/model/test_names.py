from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drsn_edge.errors import InputError
from drsn_edge.model.checkpoint import load_state_dict_file
from drsn_edge.model.names import parse_names, rename

MakeNetwork = Callable[..., Any]
PATH = Path("theirs.pt")

# A layout as a reimplementation has it, and the way back.
THEIRS = {
    r"units\.(\d+)\.shrinkage\.gate\.fc1\.": r"blocks.\1.threshold.0.",
    r"units\.(\d+)\.shrinkage\.gate\.bn\.": r"blocks.\1.threshold.1.",
    r"units\.(\d+)\.shrinkage\.gate\.fc2\.": r"blocks.\1.threshold.3.",
    r"units\.(\d+)\.": r"blocks.\1.",
    r"stem\.": "conv1.",
    r"fc\.": "classifier.",
}
NAMES = {
    r"blocks\.(\d+)\.threshold\.0\.(\w+)": r"units.\1.shrinkage.gate.fc1.\2",
    r"blocks\.(\d+)\.threshold\.1\.(\w+)": r"units.\1.shrinkage.gate.bn.\2",
    r"blocks\.(\d+)\.threshold\.3\.(\w+)": r"units.\1.shrinkage.gate.fc2.\2",
    r"blocks\.(.*)": r"units.\1",
    r"conv1\.(\w+)": r"stem.\1",
    r"classifier\.(\w+)": r"fc.\1",
    r"optimizer\..*": None,
}


def layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as theirs, with something that is no weight and without counters."""
    found: dict[str, Tensor] = {"optimizer.step": torch.zeros(3)}
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            pattern = next((item for item in THEIRS if re.match(item, name)), None)
            found[re.sub(pattern, THEIRS[pattern], name, count=1) if pattern else name] = tensor
    return found


def write(folder: Path, network: Any, contract: Any, *, toml: bool = False, **more: Any) -> tuple[Path, Path]:
    labels = [str(index) for index in range(network.config.classes)]
    value = {"network": network.config.to_json(), "contract": contract.to_json(), "labels": labels, **more}
    config = folder / "theirs.json"
    config.write_text(json.dumps(value))
    torch.save(layout(network.state_dict()), folder / "theirs.pt")
    return folder / "theirs.pt", config


@pytest.mark.parametrize("model", ["drsn-cw", "drsn-cs"])
def test_weights_under_other_names(make_network: MakeNetwork, tmp_path: Path, model: str) -> None:
    network, contract = make_network(model)
    weights, config = write(tmp_path, network, contract, names=NAMES)
    found = load_state_dict_file(weights, config)
    x = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found.network(x), network(x), rtol=0, atol=0)


def test_without_the_map_the_first_name_that_is_missing_is_told(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, contract = make_network()
    weights, config = write(tmp_path, network, contract)
    with pytest.raises(InputError, match="do not fit the network") as caught:
        load_state_dict_file(weights, config)
    assert "84 missing, 85 unknown" in str(caught.value.got)
    assert "first: fc.bias" in str(caught.value.got)
    assert "tensors of a drsn-cw" in str(caught.value.expected)
    assert "`names`" in str(caught.value.hint)


def test_the_map_may_stand_in_toml(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, contract = make_network()
    weights, config = write(tmp_path, network, contract)
    value = json.loads(config.read_text())
    lines = [f"labels = {json.dumps(value['labels'])}"]
    for table in ("network", "contract"):
        lines += [
            f"[{table}]",
            *(f"{key} = {json.dumps(item)}" for key, item in value[table].items() if item is not None),
        ]
    lines += ["[names]", *(f"'{theirs}' = '{ours or ''}'" for theirs, ours in NAMES.items())]
    toml = tmp_path / "theirs.toml"
    toml.write_text("\n".join(lines))
    checkpoint = load_state_dict_file(weights, toml)
    for name, tensor in checkpoint.network.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=0, atol=0, msg=name)


def test_the_first_entry_that_matches_wins_and_other_names_stay() -> None:
    state = {"a.weight": torch.zeros(1), "b.weight": torch.ones(1), "c": torch.ones(2), "d": torch.ones(3)}
    names = parse_names({r"a\.(.*)": r"x.\1", r"(\w)\.(.*)": r"y.\2", "d": ""}, PATH)
    assert list(rename(state, names, PATH)) == ["x.weight", "y.weight", "c"]


@pytest.mark.parametrize(
    ("names", "got", "expected"),
    [
        (["a"], "['a']", "an object of their names and ours"),
        ({"a": 3}, "{'a': 3}", "an object"),
        ({"a(": "b"}, "a(: ", "a regular expression"),
        ({"nothing": "b"}, "nothing", "whole names such as a.weight"),
        ({r".*\.weight": "w"}, "a.weight and b.weight: w", "a name of its own"),
        ({r"a\.(.*)": r"\2"}, r"a\.(.*): \2", "at most 1 groups"),
        ({r"a\.weight": "b.weight"}, "a.weight and b.weight: b.weight", "a name of its own"),
    ],
)
def test_maps_that_cannot_be_used(names: Any, got: str, expected: str) -> None:
    state = {"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}
    with pytest.raises(InputError) as caught:
        rename(state, parse_names(names, PATH), PATH)
    assert got in str(caught.value.got)
    assert expected in str(caught.value.expected)
