"""Spoken digits, as the Free Spoken Digit Dataset has them: `spoken-digits:DIR`.

Files `{digit}_{speaker}_{index}.wav`, mono, 8 kHz, one word each, in DIR or in DIR/recordings. A recording is one
window, raw: shorter ones stand in the middle of zeros, of longer ones the stretch with the most energy is kept (17 of
3,000 are longer than the window of 8,192 samples, 1.02 s).

Protocols: `speaker` leaves one speaker out, and says something of voices that were never heard. `given` is the set's
own division (indices 0 to 4 test), with every speaker on both sides. A word cannot be divided in time.

Noise: the colours, and `babble` made of other speakers of the training part (see `interference.py`).
"""

from __future__ import annotations

import re
from pathlib import Path

from drsn_edge.errors import ContractError, InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.readers import read_signal
from drsn_edge.signals.recording import Recording

RATE_HZ = 8000.0
WINDOW = 8192
_NAME = re.compile(r"(\d)_([^_]+)_(\d+)", re.ASCII)
_SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
_CUSTOMARY = 5  # recordings of each digit and speaker that the set's makers test on
_SAME_VOICES = (
    "The protocol given tests on the speakers that it trained on: use the protocol speaker for voices never heard."
)


def load(spec: DatasetSpec, protocol: str | None) -> Dataset:
    """The recordings of a folder; other files are left out, with a note.

    Groups: `speaker`, `index`, and `part` for the protocol `given`. Classes are the digits.

    Raises:
        UsageError: An option, or a protocol that divides recordings in time.
        InputError: No folder, none of the files in it, or a file that is damaged.
        ContractError: A file that is not mono, or of another sample rate.
    """
    spec.check(path="DIR", options=())
    if protocol == "time":
        raise UsageError(
            "spoken digits cannot be split in time: a recording is one word",
            got="protocol time",
            expected="speaker (leaves one speaker out), given or random",
            hint="add --protocol speaker",
        )
    folder = spec.path
    if folder is not None and (folder / "recordings").is_dir():
        folder = folder / "recordings"
    if folder is None or not folder.is_dir():
        raise InputError(
            "the folder of spoken digits is not there",
            got=folder,
            expected="a folder with files such as 7_jackson_32.wav",
            hint=f"get them from {_SOURCE}",
        )
    paths = sorted(folder.glob("*.wav"))
    matches = [(path, match) for path in paths if (match := _NAME.fullmatch(path.stem))]
    if not matches:
        raise InputError(
            f"{folder} holds no spoken digits",
            got=f"{len(paths)} other .wav files",
            expected="files named {digit}_{speaker}_{index}.wav",
            hint=f"get them from {_SOURCE}",
        )
    recordings = tuple(_read(path, *match.groups()) for path, match in matches)
    notes = []
    if len(matches) < len(paths):
        notes.append(f"{len(paths) - len(matches)} .wav files are not named as spoken digits and are left out.")
    if protocol == "given":
        notes.append(_SAME_VOICES)
    return Dataset(
        name="spoken-digits",
        spec=spec.text,
        recordings=recordings,
        labels=tuple(sorted({recording.label for recording in recordings})),
        contract=SignalContract(
            sample_rate_hz=RATE_HZ, channels=("microphone",), units="full scale", window=WINDOW, hop=WINDOW
        ),
        notes=tuple(notes),
        one_window=True,
    )


def _read(path: Path, digit: str, speaker: str, index: str) -> Recording:
    signal, rate, _ = read_signal(path)
    if signal.shape[0] != 1 or rate != RATE_HZ:
        raise ContractError(
            f"{path} is no recording of this kind",
            got=f"{signal.shape[0]} channels at {rate:g} Hz",
            expected=f"1 channel at {RATE_HZ:g} Hz",
            hint="resample it with an anti-alias filter, or take the file away",
        )
    part = "test" if int(index) < _CUSTOMARY else "train"
    return Recording(signal, RATE_HZ, digit, {"speaker": speaker, "index": index, "part": part}, str(path))
