from __future__ import annotations

import types
from enum import Enum
from typing import Any

import pytest

from drsn_edge.runtime import trt_log
from drsn_edge.runtime.trt_log import Message, MessageLog, error_text, trt_logger


class Severity(Enum):
    ERROR = 1
    VERBOSE = 4


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    class ILogger:
        pass

    monkeypatch.setattr(trt_log, "_LOGGERS", {})
    return types.SimpleNamespace(__name__="tensorrt", ILogger=ILogger)


def test_one_logger_per_library(trt: Any) -> None:
    assert trt_logger(trt)[0] is trt_logger(trt)[0]
    other = types.SimpleNamespace(__name__="tensorrt_rtx", ILogger=trt.ILogger)
    assert trt_logger(other)[0] is not trt_logger(trt)[0]


def test_keeps_what_is_said_while_somebody_listens(trt: Any) -> None:
    logger, log = trt_logger(trt)
    logger.log(Severity.ERROR, "before")
    with log.record() as outer, log.record() as inner:
        logger.log(Severity.VERBOSE, "Layers:")
    with log.record() as later:
        pass
    logger.log(Severity.ERROR, "after")
    assert outer == inner == [Message("VERBOSE", "Layers:")]
    assert later == []


def test_an_interrupt_does_not_travel_through_tensorrt(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, log = trt_logger(trt)

    def interrupted(severity: str, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "add", interrupted)
    logger.log(Severity.VERBOSE, "anything")
    assert log.interrupted


BAD, WORSE, ODD = Message("ERROR", "bad"), Message("INTERNAL_ERROR", "worse"), Message("WARNING", "odd ")


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "no reason given"),
        ([Message("INFO", "fine")], "no reason given"),
        ([ODD, Message("INFO", "fine")], "odd"),
        ([ODD, BAD, BAD, WORSE], "bad; worse"),
    ],
)
def test_the_text_of_a_failure(messages: list[Message], text: str) -> None:
    assert error_text(messages) == text


def test_recordings_end_when_their_block_fails() -> None:
    log = MessageLog()
    with pytest.raises(ZeroDivisionError), log.record() as said:
        _ = 1 / 0
    log.add("ERROR", "later")
    assert said == []
