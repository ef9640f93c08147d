"""What a network is, apart from its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from drsn_edge.errors import InputError, UsageError

Model = Literal["convnet", "resnet", "senet", "drsn-cs", "drsn-cw"]
Preset = Literal["paper", "edge"]
MODELS: tuple[str, ...] = get_args(Model)
PRESETS: tuple[str, ...] = get_args(Preset)

# Channels per stage. `paper` is Table II of Zhao et al.; `edge` keeps its depth and has multiples of 32 throughout,
# which is what integer tensor cores need.
WIDTHS: dict[str, tuple[int, ...]] = {"paper": (4, 8, 16), "edge": (32, 32, 64)}


@dataclass(frozen=True)
class NetworkConfig:
    """Everything about a network that its weights do not say.

    Attributes:
        model: `convnet`, `resnet`, `senet`, `drsn-cs` (channel-shared thresholds) or `drsn-cw` (channel-wise).
        classes: Number of classes.
        in_channels: Channels of the window.
        dims: 1 for signals, 2 for pictures.
        widths: Channels per stage; the stem has the first.
        units: Units per stage; the first of each stage halves the length.
        kernel: Kernel size of every convolution, odd.
    """

    model: Model
    classes: int
    in_channels: int = 1
    dims: Literal[1, 2] = 1
    widths: tuple[int, ...] = WIDTHS["paper"]
    units: tuple[int, ...] = (4, 4, 4)
    kernel: int = 3

    def __post_init__(self) -> None:
        checks: list[tuple[str, object, bool, str]] = [
            ("model", self.model, self.model in MODELS, "one of " + ", ".join(MODELS)),
            ("classes", self.classes, self.classes >= 2, "at least 2"),
            ("in_channels", self.in_channels, self.in_channels >= 1, "at least 1"),
            ("dims", self.dims, self.dims in (1, 2), "1 or 2"),
            (
                "widths",
                self.widths,
                bool(self.widths) and all(low >= 1 for low in self.widths) and list(self.widths) == sorted(self.widths),
                "positive channel counts that never shrink: the shortcut pads channels, it cannot drop them",
            ),
            (
                "units",
                self.units,
                len(self.units) == len(self.widths) and all(count >= 1 for count in self.units),
                f"at least one unit for each of the {len(self.widths)} stages",
            ),
            ("kernel", self.kernel, self.kernel >= 1 and self.kernel % 2 == 1, "an odd number"),
        ]
        for name, value, good, expected in checks:
            if not good:
                raise InputError(f"the network configuration has a bad {name}", got=value, expected=expected)

    @property
    def shrinks(self) -> bool:
        """Whether the units shrink: only the two DRSN do."""
        return self.model.startswith("drsn")

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Module paths of the units, in order."""
        return tuple(f"units.{index}" for index in range(sum(self.units)))

    @classmethod
    def preset(cls, preset: str, *, model: str, classes: int, in_channels: int = 1, dims: int = 1) -> NetworkConfig:
        """A configuration by preset name.

        Raises:
            UsageError: Unknown preset or model.
        """
        if preset not in PRESETS:
            raise UsageError("unknown preset", got=preset, expected="one of " + ", ".join(PRESETS))
        if model not in MODELS:
            raise UsageError("unknown model", got=model, expected="one of " + ", ".join(MODELS))
        return cls(
            model=model,  # type: ignore[arg-type]  # checked above
            classes=classes,
            in_channels=in_channels,
            dims=dims,  # type: ignore[arg-type]  # checked by the constructor
            widths=WIDTHS[preset],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = dataclasses.asdict(self)
        return {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NetworkConfig:
        """The configuration that `to_json` wrote.

        Raises:
            InputError: A field is missing, unknown, or of the wrong kind.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        required = {"model", "classes"}
        if not isinstance(value, Mapping):
            raise InputError("the network configuration is no table", got=value, expected="an object with named fields")
        if not required <= set(value) <= names:
            raise InputError(
                "the network configuration has the wrong fields",
                got=", ".join(sorted(value)) or "none",
                expected=f"{', '.join(sorted(required))}, and any of {', '.join(sorted(names - required))}",
            )
        try:
            plain: dict[str, Any] = {
                key: tuple(item) if key in ("widths", "units") else item for key, item in value.items()
            }
            for key in sorted(set(plain) - {"model"}):
                for number in plain[key] if isinstance(plain[key], tuple) else (plain[key],):
                    if isinstance(number, bool) or not isinstance(number, int):
                        raise TypeError(f"{key} is {value[key]!r}: {number!r} is not a whole number")
            return cls(**plain)
        except (TypeError, ValueError) as error:
            raise InputError(
                "the network configuration has a bad value", got=error, expected="the fields of NetworkConfig"
            ) from None
