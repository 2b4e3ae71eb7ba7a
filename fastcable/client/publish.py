"""`fastcable publish`: what it makes of its arguments, and of lines of stdin."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator, Sequence

import orjson

from fastcable.client.errors import PublishError, TooLarge
from fastcable.client.publisher import Publisher
from fastcable.options import KIB

TIMEOUT = 10.0  # a person or a script waits rather than loses a line
MAX_BATCH_ITEMS = 1000  # the server's max_batch
MAX_BATCH_BYTES = 512 * KIB  # half the server's max_broadcast_size


def as_json(text: bytes) -> bytes:
    """JSON stays as it is, byte for byte; any other text becomes a JSON string, bad UTF-8 in it U+FFFD."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.dumps(text.decode("utf-8", "replace"))
    return text


def publish_one(publisher: Publisher, stream: str, text: bytes) -> int:
    """Publish one message and return how many were subscribed. Raises `PublishError`."""
    return publisher.broadcast(stream, orjson.Fragment(as_json(text)))


def publish_lines(publisher: Publisher, stream: str, descriptor: int) -> None:
    """Publish each line read from `descriptor` as a message, until its end.

    What is there is sent in batches, and as soon as the input pauses; while a batch is under way the next gathers in
    the pipe. Raises `PublishError` for the first batch that is refused; the lines before it are published.
    """
    messages = (None if line is None else as_json(line) for line in lines(descriptor))
    for batch in batches(messages):
        publish_batch(publisher, stream, batch)


def publish_batch(publisher: Publisher, stream: str, messages: Sequence[bytes]) -> None:
    """Publish JSON values in order, all or none. Where the server takes no batch this large, halves are sent, each of
    them all or none."""
    try:
        publisher.broadcast_many([(stream, orjson.Fragment(data)) for data in messages])
    except TooLarge:
        if len(messages) == 1:
            raise
        half = len(messages) // 2
        publish_batch(publisher, stream, messages[:half])
        publish_batch(publisher, stream, messages[half:])


def batches(messages: Iterable[bytes | None]) -> Iterator[list[bytes]]:
    """Gather messages up to the limits of a batch; None asks for what there is now."""
    batch: list[bytes] = []
    size = 0
    for item in messages:
        if batch and (item is None or len(batch) == MAX_BATCH_ITEMS or size + len(item) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        if item is not None:
            batch.append(item)
            size += len(item)
    if batch:
        yield batch


def lines(descriptor: int) -> Iterator[bytes | None]:
    """Lines without their ends (LF or CRLF), the last one even if it has none; None when reading on would wait."""
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    start: list[bytes] = []
    while chunk := _read(descriptor):
        first, *others = chunk.split(b"\n")
        start.append(first)
        for following in others:
            yield b"".join(start).removesuffix(b"\r")
            start = [following]
        if not readable.poll(0):
            yield None
    if last := b"".join(start):
        yield last


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 64 * KIB)
    except OSError as error:
        raise PublishError(f"standard input: {(error.strerror or str(error)).lower()}") from None
