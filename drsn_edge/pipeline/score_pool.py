"""Who scores: processes of this machine, or the workers of a Dask scheduler."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, TypeVar

from drsn_edge.errors import DrsnError, InputError, MissingDevice
from drsn_edge.extras import require

_PATIENCE_S = 20
_AHEAD = 4  # jobs for each worker that wait for their turn

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def open_pool(workers: int, scheduler: str | None) -> Iterator[tuple[futures.Executor, int]]:
    """An executor, and how many work for it.

    Args:
        workers: Processes here; with a scheduler its own count.
        scheduler: Address of a Dask scheduler, `tcp://HOST:8786`; None for processes here.

    Raises:
        MissingDependency: Dask is not installed.
        InputError: There is no scheduler.
        MissingDevice: It has no workers.
    """
    if scheduler is None:
        context = multiprocessing.get_context("spawn")
        executor: futures.Executor = futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_follow)
        try:
            yield executor, workers
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
        return
    distributed: Any = require("distributed", purpose="scoring on a Dask scheduler")
    try:
        client = distributed.Client(scheduler, timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise InputError(
            "the Dask scheduler cannot be reached", got=f"{scheduler}: {error}", expected="tcp://HOST:PORT",
            hint="start one with `dask scheduler`, and on every machine `dask worker tcp://HOST:8786 --nthreads 1`",
        ) from None  # fmt: skip
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE_S)
        except TimeoutError:
            raise MissingDevice(
                "the Dask scheduler has no workers", got=scheduler, expected="at least one",
                hint=f"on every machine: dask worker {scheduler} --nthreads 1",
            ) from None  # fmt: skip
        executor = client.get_executor(pure=False, retries=2)
        try:
            yield executor, sum(client.nthreads().values())
        finally:
            executor.shutdown(wait=False)


def finished(
    function: Callable[[Item], Result], items: Iterable[Item], executor: futures.Executor, workers: int
) -> Iterator[Result]:
    """Results as they come; no more than a few jobs a worker are handed out at a time, whatever their number.

    Raises:
        DrsnError: Of the function, or a worker that ended.
    """
    waiting, left = set[futures.Future[Result]](), iter(items)
    while True:
        while len(waiting) < _AHEAD * workers and (item := next(left, None)) is not None:
            waiting.add(executor.submit(function, item))
        if not waiting:
            return
        done, waiting = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
        for one in done:
            try:
                yield one.result()
            except DrsnError:
                raise
            except Exception as error:  # what a lost worker is called is its scheduler's affair
                raise DrsnError(
                    "a worker could not go on", got=f"{type(error).__name__}: {error}", expected="a result",
                    hint="the same command goes on with what is left",
                ) from error  # fmt: skip


def _follow() -> None:
    """In a worker: end with the process that started it, even when that was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
