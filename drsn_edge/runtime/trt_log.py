"""TensorRT's own words, kept.

Its functions answer a failure with None; the reason goes to the logger only. And a process has one logger: TensorRT
keeps the first that it is given and ignores later ones, so every builder and every runtime here shares `trt_logger`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """One line of the log: `INTERNAL_ERROR`, `ERROR`, `WARNING`, `INFO` or `VERBOSE`, and what it says."""

    severity: str
    text: str


class MessageLog:
    """Where messages go: to those who record at the time.

    Attributes:
        interrupted: Ctrl-C arrived while TensorRT was talking, where no exception can travel.
        turn: Held by a build: messages do not say whose they are, so builds of one process take turns.
    """

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._recordings: list[list[Message]] = []
        self.interrupted = False

    def add(self, severity: str, text: str) -> None:
        """Called by TensorRT, from any of its threads."""
        for recording in self._recordings:
            recording.append(Message(severity, text))

    @contextlib.contextmanager
    def record(self) -> Iterator[list[Message]]:
        """Everything that is said in the block, verbose messages included."""
        messages: list[Message] = []
        self._recordings.append(messages)
        try:
            yield messages
        finally:
            # By identity: two recordings that heard the same are equal.
            self._recordings = [recording for recording in self._recordings if recording is not messages]


def error_text(messages: list[Message]) -> str:
    """The errors among messages, each once; warnings where there is no error; a plain statement where nothing is."""
    for severities in (("INTERNAL_ERROR", "ERROR"), ("WARNING",)):
        texts = list(dict.fromkeys(message.text.strip() for message in messages if message.severity in severities))
        if texts:
            return "; ".join(texts[-5:])
    return "no reason given"


# One per library: `tensorrt` and `tensorrt_rtx` are two, and may both be loaded.
_LOGGERS: dict[str, tuple[Any, MessageLog]] = {}


def trt_logger(trt: Any) -> tuple[Any, MessageLog]:
    """The process's logger for a TensorRT module, and where its messages are kept."""
    if trt.__name__ not in _LOGGERS:
        log = MessageLog()

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 insists on the explicit call

            def log(self, severity: Any, msg: str) -> None:
                try:
                    log.add(severity.name, msg)
                except KeyboardInterrupt:  # must not travel through C++; the builder looks at it when it is back
                    log.interrupted = True

        _LOGGERS[trt.__name__] = (Logger(), log)
    return _LOGGERS[trt.__name__]
