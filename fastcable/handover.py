"""The answer to a post whose messages a broker still has to take."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence

from fastcable.brokers import HandoverError
from fastcable.response import Response, error

RETRY = b"Retry-After: 1\r\n"


def answer_later(handovers: Sequence[Future[int]], answer: Callable[[int], Response]) -> Future[Response]:
    """When all of them are done: `answer` to the sum of their results, or 503 for the first that failed."""
    later: Future[Response] = handovers[0].get_loop().create_future()
    waiting = len(handovers)

    def done(_: Future[int]) -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            try:
                later.set_result(_answer(handovers, answer))
            except Exception as problem:
                later.set_exception(problem)

    for handover in handovers:
        handover.add_done_callback(done)
    return later


def _answer(handovers: Sequence[Future[int]], answer: Callable[[int], Response]) -> Response:
    failures = [failure for handover in handovers if (failure := handover.exception()) is not None]
    if not failures:
        return answer(sum(handover.result() for handover in handovers))
    for failure in failures:
        if not isinstance(failure, HandoverError):
            raise failure
    if len(handovers) == 1:
        return error(503, f"not handed over: {failures[0]}", RETRY)
    return error(503, f"{len(failures)} of {len(handovers)} messages were not handed over: {failures[0]}", RETRY)
