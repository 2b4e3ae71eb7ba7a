"""A server whose workers read what Rails broadcasts through Solid Cable."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from tests.cluster import Cluster, until
from tests.harness import PATIENCE, Spawn
from tests.solid_cable import SqliteTable, start_writer

STREAMS = [f"room:{number}" for number in range(8)]
WRITERS = 4
ROWS = 2_500  # of each writer


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_of_several_writers_reach_all_subscribers_once(spawn: Spawn, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "storage" / "production_cable.sqlite3"
    path.parent.mkdir()
    with SqliteTable(path).create() as table:
        for stream in STREAMS:
            table.write(f"fleet:{stream}", "of before")
    server = spawn("--source", f"solid_cable://{path}", "--channel-prefix", "fleet", "--workers", str(workers))

    async def scenario(cluster: Cluster) -> None:
        await cluster.subscribe(*([STREAMS[number % 8], STREAMS[number // 5]] for number in range(40)))
        channels = [f"fleet:{stream}" for stream in STREAMS]
        writers = [start_writer(str(path), writer, ROWS, channels) for writer in range(WRITERS)]
        try:
            await until(lambda: all(writer.poll() is not None for writer in writers))
            assert [writer.returncode for writer in writers] == [0] * WRITERS
            rows = {
                stream: {writer: list(range(ROWS))[number::8] for writer in range(WRITERS)}
                for number, stream in enumerate(STREAMS)
            }
            await until(lambda: all(
                heard.last == {writer: numbers[-1] for writer, numbers in rows[stream].items()}
                for session in cluster.sessions for stream, heard in session.heard.items()))  # fmt: skip
        finally:
            for writer in writers:
                writer.kill()
                writer.wait(PATIENCE)
        for session in cluster.sessions:
            assert session.strange == []
            for stream, heard in session.heard.items():
                for number, expected in rows[stream].items():
                    assert [event[1] for event in heard.events if event and event[0] == number] == expected
                assert heard.gaps == 0

    async def main() -> None:
        cluster = Cluster([server.port])
        try:
            await scenario(cluster)
        finally:
            await cluster.close()

    uvloop.run(main())
    assert [line for line in server.log if "WARN" in line] == []
