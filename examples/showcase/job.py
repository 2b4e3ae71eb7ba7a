"""python -m examples.showcase.job DATABASE KEY: run one command of channel 5, in a process of its own.

It outlives the application, and needs it for nothing: what the command prints goes to a file first, then to fastcable.
While one message is under way, more output gathers for the next. A message that could not be published is sent again
until it can, so each piece arrives at least once; its position says which part of it a page has already, and so each
is shown exactly once.
"""

from __future__ import annotations

import asyncio
import os
import pty
import sys
import termios
from pathlib import Path
from typing import Any

from examples.showcase.database import Database
from examples.showcase.output import Output, output_path, read_text
from examples.showcase.reports import COMMANDS
from fastcable import AsyncPublisher, PublishError

ROWS, COLUMNS = 32, 100  # as command_output.js
CHUNK = 16 * 1024  # bytes of output in a message
RETRY_SECONDS = 0.5
PATIENCE = 60.0  # seconds after the end for what could not be published until then


class Job:
    def __init__(self, database: Database, key: str) -> None:
        self._database = database
        self._key = key
        row = database.one("SELECT job.*, event_id FROM job JOIN person ON id = person_id WHERE job.key = ?", key)
        module = COMMANDS[row["command"]].module
        self._command = (sys.executable, "-m", module, str(database.path), str(row["event_id"]))
        self._stream: str = row["stream"]
        self._path = output_path(database.folder, key)
        self._output = Output(self._path)
        self._news = asyncio.Event()
        self._exit_status: int | None = None

    async def run(self) -> None:
        publishing = asyncio.create_task(self._publish())
        status = await self._follow()
        # In this order: who reads the status before the output never takes half an output for the whole.
        self._output.close()
        self._database.run("UPDATE job SET exit_status = ? WHERE key = ?", status, self._key)
        self._exit_status = status
        self._news.set()
        await asyncio.wait_for(publishing, PATIENCE)

    async def _follow(self) -> int:
        """Run the command in a pseudo-terminal, keep what it prints, and return its exit status."""
        ours, its = pty.openpty()
        termios.tcsetwinsize(its, (ROWS, COLUMNS))
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=its, stderr=its,
        )
        os.close(its)
        closed = asyncio.Event()

        def readable() -> None:
            try:
                data = os.read(ours, 64 * 1024)
            except OSError:  # EIO: nobody holds the other end any more
                loop.remove_reader(ours)
                closed.set()
                return
            self._output.append(data)
            self._news.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(ours, readable)
        await closed.wait()
        os.close(ours)
        return await process.wait()

    async def _publish(self) -> None:
        publisher = AsyncPublisher()
        position = 0
        while True:
            status = self._exit_status  # before reading: if it has ended, what is read now is all there is
            text = read_text(self._path, position, CHUNK)
            if not text and status is None:
                await self._news.wait()
                self._news.clear()
                continue
            message: dict[str, Any] = {"position": position, "text": text.decode()}
            if not text:
                message["exit"] = status
            try:
                await publisher.broadcast(self._stream, message)
            except PublishError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            position += len(text)
            if not text:
                return


async def main(path: Path, key: str) -> None:
    database = Database(path)
    await Job(database, key).run()
    database.close()


if __name__ == "__main__":
    # The process that the application started ends here, and the other is nobody's child: nobody has to wait for it,
    # and no signal meant for the application's process group reaches it.
    if os.fork():
        os._exit(0)
    os.setsid()
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
