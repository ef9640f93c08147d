"""Jobs in worker processes of their own: one that dies takes nothing with it but a try of its job."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from drsn_edge.errors import DrsnError

J = TypeVar("J")
Tell = Callable[[Any], None]
Work = Callable[[Any, Any, Tell], None]

# A worker can be killed for memory, or by mistake; one whose job kills it every time must not go on for ever.
_TRIES = 2


@dataclass(frozen=True)
class Failure(Generic[J]):
    """A job that could not be done, and why."""

    job: J
    error: DrsnError


def run_jobs(
    jobs: Sequence[J],
    work: Work,
    setup: Any,
    *,
    workers: int,
    gpus: int = 0,
    on_message: Callable[[J, Any], None],
    on_done: Callable[[J], None],
) -> list[Failure[J]]:
    """Do every job in one of several processes.

    Processes are spawned, not forked: PyTorch's threads do not survive a fork. A script that calls this needs the usual
    `if __name__ == "__main__":`. A job whose worker dies is tried once more in a new one; an error that a job raises is
    final. On an exception here, and on the death of this process however it dies, the workers end.

    Args:
        jobs: Picklable.
        work: A function of a module, called in the worker with `setup`, the job, and a function that sends a picklable
            message back.
        setup: Picklable; the same for every job.
        workers: At most so many processes.
        gpus: Processes share so many GPUs in turn: `find_device` gives each its own.
        on_message: Called here with the job and the message.
        on_done: Called here after a job has ended well.

    Returns:
        The jobs that failed.
    """
    queue = deque(range(len(jobs)))
    tries = [0] * len(jobs)
    failures: list[Failure[J]] = []
    with _pool() as pool:
        while queue or any(worker.job is not None for worker in pool):
            while queue and len(pool) < workers:
                free = min(set(range(workers)) - {worker.place for worker in pool})
                pool.append(_Worker(work, setup, place=free, gpus=gpus))
            for worker in pool:
                if worker.job is None and queue:
                    worker.give(queue[0], jobs[queue.popleft()])
            busy = [worker for worker in pool if worker.job is not None]
            ready = multiprocessing.connection.wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                index = worker.job
                assert index is not None
                job = jobs[index]
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    pool.remove(worker)
                    error = worker.death()
                    if not worker.began:  # the next one would not begin either
                        raise error from None
                    tries[index] += 1
                    if tries[index] < _TRIES:
                        queue.appendleft(index)
                    else:
                        failures.append(Failure(job, error))
                    continue
                worker.began = True
                if kind == "message":
                    on_message(job, value)
                elif kind == "done":
                    worker.job = None
                    on_done(job)
                elif kind == "failed":
                    worker.job = None
                    failures.append(Failure(job, value))
    return failures


class _Worker:
    """A process, the line to it, and the job that it has."""

    def __init__(self, work: Work, setup: Any, *, place: int, gpus: int) -> None:
        self.place = place
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, work, setup, place % max(gpus, 1)), daemon=True
        )
        self.process.start()
        theirs.close()  # or the end of the process would not be the end of the line
        self.job: int | None = None
        self.began = False

    def give(self, index: int, job: Any) -> None:
        self.job = index
        with contextlib.suppress(OSError):  # it is dead: the next `recv` says so
            self.connection.send(job)

    def death(self) -> DrsnError:
        self.process.join()
        code = self.process.exitcode
        killed = code is not None and code < 0
        return DrsnError(
            "a worker process died",
            got=f"signal {signal.Signals(-code).name}" if killed and code is not None else f"exit code {code}",
            expected="a worker that lives until the study ends",
            hint="look for a lack of memory (dmesg), take fewer --workers, and give the command again: it goes on",
        )


@contextlib.contextmanager
def _pool() -> Iterator[list[_Worker]]:
    pool: list[_Worker] = []
    try:
        yield pool
        for worker in pool:
            worker.connection.close()  # an idle worker ends at the end of its line
    except BaseException:
        for worker in pool:
            worker.process.terminate()
        raise
    finally:
        for worker in pool:
            worker.process.join(timeout=10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _serve(connection: Connection, work: Work, setup: Any, gpu: int = 0) -> None:
    """The worker: job after job until the line ends."""
    os.environ["LOCAL_RANK"] = str(gpu)  # as torchrun says it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(("hello", None))
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[str, Any] = ("done", None)
        try:
            work(setup, job, lambda message: connection.send(("message", message)))
        except DrsnError as error:
            answer = ("failed", error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the parent has to hear of it
            frame = traceback.extract_tb(error.__traceback__)[-1]
            answer = (
                "failed",
                DrsnError(
                    f"a job failed unexpectedly: {type(error).__name__}: {error}",
                    got=f"{frame.filename}, line {frame.lineno}, in {frame.name}",
                    hint="report it",
                ),
            )
        connection.send(answer)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for hours, and write into a folder that another study may use."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
