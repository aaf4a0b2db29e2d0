"""The runs of a sweep, one after the other or in a process a device."""

import multiprocessing
import os
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace

from mixbench.errors import MixbenchError
from mixbench.sweep.job import Job, outcome_of
from mixbench.sweep.results import SweepResult
from mixbench.training import Places


def outcomes_on(
    jobs: Sequence[Job], places: Places, devices: Sequence[str]
) -> Generator[tuple[str, SweepResult | MixbenchError]]:
    """Yield the name and the outcome of every job as it ends; closing the generator ends those that still run."""
    if len(devices) > 1:
        yield from _outcomes_of_processes(jobs, places, devices)
        return
    for job in jobs:
        yield job.run.name, outcome_of(job, replace(places, device=devices[0]))


class _Worker:
    """A process of its own, which leaves Ctrl-C to this one."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
        self._number = self._pool.submit(os.getpid)

    def start(self, job: Job, places: Places) -> "Future[SweepResult | MixbenchError]":
        return self._pool.submit(outcome_of, job, places)

    def end(self, *, busy: bool) -> None:
        """End the process, also in the middle of a run: what a run keeps on disk outlives it."""
        self._pool.shutdown(wait=not busy, cancel_futures=True)
        if busy and self._number.done() and self._number.exception() is None:
            with suppress(ProcessLookupError):
                os.kill(self._number.result(), signal.SIGTERM)


def _outcomes_of_processes(
    jobs: Sequence[Job], places: Places, devices: Sequence[str]
) -> Generator[tuple[str, SweepResult | MixbenchError]]:
    workers = {device: _Worker() for device in devices}
    waiting, running = list(jobs), dict[Future[SweepResult | MixbenchError], tuple[str, str]]()
    idle = list(devices)
    try:
        while waiting or running:
            while waiting and idle:
                job, device = waiting.pop(0), idle.pop()
                running[workers[device].start(job, replace(places, device=device))] = (job.run.name, device)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, device = running.pop(future)
                idle.append(device)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    workers[device] = _Worker()
                    outcome = MixbenchError(
                        f"its process on {device} was killed, perhaps for want of memory: run the same command again"
                    )
                yield name, outcome
    finally:
        busy = {device for _, device in running.values()}
        for device, worker in workers.items():
            worker.end(busy=device in busy)
