"""A gearbox that exists only as kinematics: `synthetic`, `synthetic:seed=1,seconds=8`. No files, no network.

Eight states of health as on the rig of Zhao et al. 2020: healthy; bearing faults of the inner race, outer race and
balls; gear faults: a cracked tooth root, pitting, a broken and a missing tooth. What a window holds follows from
geometry and speed (Randall and Antoni, "Rolling element bearing diagnostics - a tutorial", MSSP 25(2), 2011, section 3;
McFadden and Smith, "Model for the vibration produced by a single point defect", JSV 96(1), 1984):

- The gear mesh: harmonics of the tooth frequency, with sidebands of both shafts. A damaged tooth changes amplitude and
  phase for the moment that it meshes, once per revolution, and strikes.
- A bearing defect strikes at its characteristic frequency, with the random slip of real bearings, so that the spectrum
  is a smear and not a comb. On the inner race it passes through the load zone once per revolution, on a ball with the
  cage; on the outer race it stays in the load zone. Every strike rings a resonance of the housing.
- Under everything: noise of the sensor and of the structure, and knocks that have nothing to do with any fault.

Each state has three specimens with teeth, resonances and defects of their own, each measured at three loads and three
speeds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.noise import noise_rng
from drsn_edge.signals.recording import Recording

STATES = ("healthy", "inner", "outer", "ball", "root-crack", "pitting", "broken-tooth", "missing-tooth")
RATE_HZ = 12_800.0
SPEEDS_HZ = (20.0, 30.0, 40.0)
LOADS = ("1", "6", "18")  # lbf ft, as on the paper's rig
SPECIMENS = 3

# Geometry: nine balls of 0.2 pitch diameters, contact angle zero; 23 teeth drive 57.
_BALLS, _RATIO, _TEETH, _WHEEL = 9, 0.2, 23, 57
# Orders: events per revolution of the shaft.
ORDERS = {
    "outer": _BALLS / 2 * (1 - _RATIO),  # BPFO
    "inner": _BALLS / 2 * (1 + _RATIO),  # BPFI
    "ball": (1 - _RATIO**2) / _RATIO,  # twice BSF: a defect on a ball meets both races
}
_CAGE = (1 - _RATIO) / 2  # FTF

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Specimen:
    """What differs from one gearbox to the next of the same state."""

    mesh: Array  # amplitude of the mesh harmonics
    phase: Array  # of the harmonics, the two sidebands and the defect's place, radians
    sidebands: Array  # modulation by the two shafts
    housing_hz: float
    gear_hz: float
    severity: float


def load(spec: DatasetSpec, protocol: str | None) -> Dataset:
    """Every state, specimen, load and speed: 216 recordings. Options: `seed`, and `seconds` for each recording.

    Groups: `load`, `speed` (Hz), `bearing` (the specimen, one state each). The same options give the same samples.
    Under the protocol `time` there are 4,752 windows to train and 432 independent ones to test. Under `bearing` one
    specimen of each state trains, and a network mostly learns that specimen: as with real bearings, nothing is wrong.

    Raises:
        UsageError: A path, an unknown option, or a value out of bounds.
    """
    del protocol
    spec.check(path=None, options=("seed", "seconds"))
    seed = int(spec.number("seed", 0, low=0, high=2**31, whole=True))
    seconds = spec.number("seconds", 2.0, low=0.5, high=60.0)
    samples = round(seconds * RATE_HZ)
    recordings = []
    for state, number in itertools.product(STATES, range(SPECIMENS)):
        specimen = _specimen(noise_rng(seed, "specimen", state, number))
        name = f"{state}-{number + 1}"
        for (rank, load_name), speed in itertools.product(enumerate(LOADS), SPEEDS_HZ):
            rng = noise_rng(seed, "run", state, number, rank, speed)
            recordings.append(
                Recording(
                    signal=_vibration(state, specimen, speed, rank, samples, rng)[None, :].astype(np.float32),
                    sample_rate_hz=RATE_HZ,
                    label=state,
                    groups={"load": load_name, "speed": f"{speed:g}", "bearing": name},
                    source=f"synthetic {name} at {speed:g} Hz, load {load_name}",
                )
            )
    return Dataset(
        name="synthetic",
        spec=spec.text,
        recordings=tuple(recordings),
        labels=STATES,
        contract=SignalContract(sample_rate_hz=RATE_HZ, channels=("accelerometer",), units="g"),
        notes=("Synthetic vibration: figures on it say that the tools work, not how well a machine is diagnosed.",),
    )


def _specimen(rng: np.random.Generator) -> _Specimen:
    return _Specimen(
        mesh=np.array([0.3, 0.2, 0.1]) * rng.uniform(0.8, 1.2, 3),
        phase=rng.uniform(0, 2 * np.pi, 6),
        sidebands=rng.uniform(0.05, 0.12, 2),
        housing_hz=3400.0 * rng.uniform(0.95, 1.05),
        gear_hz=1900.0 * rng.uniform(0.95, 1.05),
        severity=rng.uniform(0.85, 1.15),
    )


def _vibration(
    state: str, specimen: _Specimen, speed_hz: float, rank: int, samples: int, rng: np.random.Generator
) -> Array:
    """One recording. Time runs in seconds, `turns` in revolutions of the shaft since the start."""
    time = np.arange(samples) / RATE_HZ
    # A motor slips under load, and its speed breathes a little.
    speed = speed_hz * (1 - 0.004 * rank)
    breath, wander = rng.uniform(0, 2 * np.pi), 2 * np.pi * 0.4
    turns = speed * (time - 0.003 / wander * np.cos(wander * time + breath)) + rng.uniform()
    force = (0.85, 1.0, 1.15)[rank]
    signal = force * _mesh(state, specimen, turns)
    signal += _ring(force * _gear_strikes(state, specimen, turns, rng), specimen.gear_hz, damping=0.06)
    housing = force * _bearing_strikes(state, specimen, turns, rng)
    # Knocks of the surroundings: not periodic, in every state.
    knocks = rng.poisson(3 * samples / RATE_HZ)
    np.add.at(housing, rng.integers(0, samples, knocks), rng.exponential(0.8, knocks))
    # The structure answers its own noise with the same resonance.
    housing += 0.03 * rng.standard_normal(samples)
    signal += _ring(housing, specimen.housing_hz, damping=0.04)
    signal += 0.08 * rng.standard_normal(samples)
    return signal


def _mesh(state: str, specimen: _Specimen, turns: Array) -> Array:
    """Tooth mesh, as the damaged tooth leaves it."""
    shaft = 2 * np.pi * turns
    carrier = _TEETH * shaft
    drop, shift, eccentric = {
        "root-crack": (0.45, 1.2, 0.10),  # a softer tooth: less stiff, and late
        "pitting": (0.0, 0.0, 0.05),
        "broken-tooth": (0.6, 0.6, 0.10),
        "missing-tooth": (1.0, 0.0, 0.30),
    }.get(state, (0.0, 0.0, 0.0))
    modulation: Array = (
        1
        + (specimen.sidebands[0] + eccentric) * np.cos(shaft + specimen.phase[3])
        + specimen.sidebands[1] * np.cos(shaft * _TEETH / _WHEEL + specimen.phase[4])
    )
    if drop or shift:
        # Teeth away from the damaged one; contact is shared, so the dip is two teeth wide.
        away = _TEETH * ((turns - specimen.phase[5] / (2 * np.pi) + 0.5) % 1.0 - 0.5)
        dip = specimen.severity * np.exp(-0.5 * (away / 0.9) ** 2)
        modulation = modulation * np.maximum(1 - drop * dip, 0)
        carrier = carrier - shift * dip
    mesh = np.zeros_like(turns)
    for harmonic, (amplitude, phase) in enumerate(zip(specimen.mesh, specimen.phase[:3], strict=True), start=1):
        mesh += amplitude * np.cos(harmonic * carrier + phase)
    return mesh * modulation


def _gear_strikes(state: str, specimen: _Specimen, turns: Array, rng: np.random.Generator) -> Array:
    """Strikes of the damaged teeth, as a train of impulses."""
    # Where on the circumference, in teeth from the damaged one, and how hard.
    places: dict[str, tuple[tuple[float, float], ...]] = {
        "root-crack": ((0.0, 0.5),),
        "pitting": tuple((float(tooth), 0.6) for tooth in range(-3, 4)),
        "broken-tooth": ((0.5, 1.6),),
        "missing-tooth": ((-0.5, 1.0), (1.0, 2.2)),
    }
    train = np.zeros_like(turns)
    whole = np.arange(np.floor(turns[0]) - 1, np.ceil(turns[-1]) + 1)
    for place, strength in places.get(state, ()):
        angle = whole + specimen.phase[5] / (2 * np.pi) + place / _TEETH
        scatter = rng.gamma(4.0, 0.25, angle.size) if state == "pitting" else rng.normal(1.0, 0.1, angle.size)
        _strike(train, turns, angle, strength * specimen.severity * scatter)
    return train


def _bearing_strikes(state: str, specimen: _Specimen, turns: Array, rng: np.random.Generator) -> Array:
    """Strikes of a bearing defect, as a train of impulses."""
    train = np.zeros_like(turns)
    if state not in ORDERS:
        return train
    count = int((turns[-1] - turns[0]) * ORDERS[state]) + 2
    # Balls slip: the error of each interval adds to those before it.
    angle = turns[0] + np.cumsum((1 + 0.01 * rng.standard_normal(count)) / ORDERS[state])
    zone: Any = 1.0
    if state == "inner":
        zone = np.maximum(np.cos(2 * np.pi * angle + specimen.phase[5]), 0)
    elif state == "ball":
        zone = 0.35 + 0.65 * np.maximum(np.cos(2 * np.pi * _CAGE * angle + specimen.phase[5]), 0)
    strength = {"inner": 2.2, "outer": 1.2, "ball": 1.3}[state]
    _strike(train, turns, angle, strength * specimen.severity * zone * rng.normal(1.0, 0.15, count))
    return train


def _strike(train: Array, turns: Array, angle: Array, strength: Array) -> None:
    """Add impulses at the moments when the shaft stands at `angle`, each shared between two samples."""
    at = np.interp(angle, turns, np.arange(turns.size), left=-1, right=-1)
    inside = (at >= 0) & (at < turns.size - 1)
    at, strength = at[inside], strength[inside]
    left = at.astype(np.int64)
    np.add.at(train, left, strength * (1 - (at - left)))
    np.add.at(train, left + 1, strength * (at - left))


def _ring(train: Array, frequency_hz: float, *, damping: float) -> Array:
    """What a resonance makes of a train of impulses: convolution with its impulse response."""
    rate = 2 * np.pi * frequency_hz / RATE_HZ
    length = int(8 / (damping * rate))  # down to exp(-8)
    steps = np.arange(length)
    response = np.exp(-damping * rate * steps) * np.sin(rate * np.sqrt(1 - damping**2) * steps)
    size = 1 << (train.size + length - 1).bit_length()
    rung: Array = np.fft.irfft(np.fft.rfft(train, size) * np.fft.rfft(response, size), size)
    return rung[: train.size]
