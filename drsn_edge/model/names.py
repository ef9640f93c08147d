"""State dicts of others: the same tensors under other names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from drsn_edge.errors import InputError

_COUNTER = "num_batches_tracked"


def parse_names(value: Any, path: Path) -> dict[re.Pattern[str], str]:
    """The map `names` of a configuration: regular expressions for whole names, and what takes their place.

    Raises:
        InputError: No such map, or an expression that is none.
    """
    if not isinstance(value, Mapping) or not all(isinstance(item, str | None) for item in value.values()):
        raise InputError(
            f"{path}: names has the wrong kind",
            got=repr(value),
            expected='an object of their names and ours, e.g. {"layer(\\\\d)\\\\.(.*)": "units.\\\\1.\\\\2"}',
        )
    found: dict[re.Pattern[str], str] = {}
    for theirs, ours in value.items():
        try:
            found[re.compile(theirs)] = ours or ""
        except re.error as error:
            raise InputError(
                f"{path}: names has an entry that is no regular expression", got=f"{theirs}: {error}",
                expected="a regular expression for whole names; a dot that is meant is written \\\\.",
            ) from None  # fmt: skip
    return found


def rename(state: Mapping[str, Tensor], names: Mapping[re.Pattern[str], str], path: Path) -> dict[str, Tensor]:
    r"""Tensors under the names that a network has.

    Args:
        state: As it was read.
        names: Expressions that match whole names, in the order of the file: the first that matches gives the new name,
            with `\1` for what its first group matched; an empty one drops the tensor. Other names stay.
        path: Of the state dict, for messages.

    Raises:
        InputError: An expression that matches nothing, or names a group that it does not have, or two tensors that
            come to have one name.
    """
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    unused = dict.fromkeys(names)
    for theirs, tensor in state.items():
        ours = theirs
        for pattern, template in names.items():
            match = pattern.fullmatch(theirs)
            if match is None:
                continue
            unused.pop(pattern, None)
            try:
                ours = match.expand(template)
            except (re.error, IndexError) as error:
                raise InputError(
                    "names has an entry that cannot be filled in", got=f"{pattern.pattern}: {template} ({error})",
                    expected=f"at most {pattern.groups} groups, \\1 for the first",
                ) from None  # fmt: skip
            break
        if not ours:
            continue
        if ours in origin:
            raise InputError(
                "names gives two tensors one name", got=f"{origin[ours]} and {theirs}: {ours}",
                expected="a name of its own for every tensor",
            )  # fmt: skip
        origin[ours], renamed[ours] = theirs, tensor
    if unused:
        pattern = next(iter(unused))
        raise InputError(
            f"names has an entry that matches no tensor of {path}", got=pattern.pattern,
            expected=f"whole names such as {', '.join(list(state)[:3])}",
            hint="an earlier entry may have matched first",
        )  # fmt: skip
    return renamed


def with_counters(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """With the counters of BatchNorm, which other frameworks do not have and evaluation does not read."""
    own = {name: value for name, value in network.state_dict().items() if name.endswith(_COUNTER)}
    return {**own, **state}
