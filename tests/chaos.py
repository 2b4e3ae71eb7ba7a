"""Faults by chance, for as long as one likes: `python -m tests.chaos SECONDS [SEED [WORKERS [memory]]]`.

In each round two servers that share a Redis (or one with the embedded broker) get subscribers, posts, and several
faults at a time. Then nobody may be deaf, and every session's account must be right.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import uvloop

from fastcable.descriptors import raise_descriptor_limit
from tests.cluster import Cluster, until
from tests.harness import ServerProcess
from tests.redis_server import RedisServer
from tests.test_cluster import STREAMS, places, streams, workers

PUBLISHERS = 16
SUBSCRIBERS = 400


class Chaos:
    def __init__(self, chance: random.Random, servers: list[ServerProcess], redis: RedisServer | None) -> None:
        self._chance = chance
        self._servers = servers
        self._redis = redis
        self._alive = asyncio.Lock()  # Redis is, while nobody holds it

    async def fault(self) -> None:
        faults: list[Callable[[], Awaitable[None]]] = [self.kill_worker, self.reload]
        if self._redis is not None:
            faults += [self.kill_redis, self.freeze_redis, self.cut_clients, self.kill_redis]
        fault = self._chance.choice(faults)
        print(f"{time.monotonic():.1f} {fault.__name__}", flush=True)
        await fault()

    async def kill_worker(self) -> None:
        server = self._chance.choice(self._servers)
        with suppress(ProcessLookupError, IndexError):
            os.kill(self._chance.choice(sorted(workers(server))), signal.SIGKILL)

    async def reload(self) -> None:
        self._chance.choice(self._servers).process.send_signal(signal.SIGHUP)

    async def kill_redis(self) -> None:
        assert self._redis is not None
        async with self._alive:
            self._redis.kill()
            await asyncio.sleep(self._chance.choice((0, 0, 0.05, 0.5, 2.5)))
            self._redis.start()

    async def freeze_redis(self) -> None:
        assert self._redis is not None
        async with self._alive:
            with self._redis.frozen():
                await asyncio.sleep(self._chance.choice((0.3, 1, 3, 10)))

    async def cut_clients(self) -> None:
        assert self._redis is not None
        async with self._alive:
            self._redis("CLIENT", "KILL", "TYPE", self._chance.choice(("pubsub", "normal")))

    async def round(self, cluster: Cluster) -> None:
        await cluster.subscribe(*places(SUBSCRIBERS))
        publishers = [cluster.publisher() for _ in range(PUBLISHERS)]
        stopping = asyncio.Event()

        def until_stopped(number: int) -> Iterator[str]:
            while not stopping.is_set():
                yield from streams(number, 100)

        posting = asyncio.gather(*(
            publisher.run(until_stopped(number), 0.005) for number, publisher in enumerate(publishers)))  # fmt: skip
        faults = []
        for _ in range(self._chance.randint(1, 5)):
            await asyncio.sleep(self._chance.choice((0.01, 0.1, 0.5, 1)))
            faults.append(asyncio.ensure_future(self.fault()))
        await asyncio.gather(*faults)
        await asyncio.sleep(1)
        stopping.set()
        await posting
        await until(lambda: len(cluster.connected) == SUBSCRIBERS, 60)
        await cluster.hear_all(STREAMS)
        print(dict(cluster.answers()), len(cluster.sessions), "sessions", flush=True)
        assert cluster.complaints() == []


def main(seconds: str, seed: str = "", count: str = "2", broker: str = "redis") -> None:
    raise_descriptor_limit()
    seed = seed or str(random.randrange(1 << 32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    with ExitStack() as stack:
        options = ["--workers", count, "--reload-drain", "1"]
        redis = None
        if broker == "redis":
            redis = stack.enter_context(RedisServer()).start()
            options += ["--broker", redis.url]
        servers = [stack.enter_context(ServerProcess(*options)) for _ in range(1 if redis is None else 2)]
        try:
            uvloop.run(run(float(seconds), chance, servers, redis))
        except BaseException:
            for server in servers:
                print("".join(server.log))
            raise


async def run(seconds: float, chance: random.Random, *machines: Any) -> None:
    end = time.monotonic() + seconds
    chaos = Chaos(chance, *machines)
    while time.monotonic() < end:
        cluster = Cluster([server.port for server in machines[0]])
        try:
            await chaos.round(cluster)
        finally:
            await cluster.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
