"""The Ruby gem: its own tests, as a gem, and in a Rails application, beside a running server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastcable import __version__
from tests.harness import PATIENCE, TEXT, Client, ServerProcess, Spawn
from tests.snippets import ROOT, at, snippet

GEM = ROOT / "clients" / "ruby"
README = "clients/ruby/README.md"
TESTS = sorted(path.stem for path in GEM.glob("test/*_test.rb"))
OURS = re.compile(r"FASTCABLE_|(NAVIGATOR|TURBO_CABLE)_BROADCAST_URL$|RAILS_ENV$|RACK_ENV$|RUBY")
CLEAN = {name: value for name, value in os.environ.items() if not OURS.match(name)}

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command in an empty directory; what it prints. It must succeed, and Ruby must warn of nothing of ours."""

    def run(*command: str | Path, **environment: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env={**CLEAN, "HOME": str(tmp_path), **environment},
            capture_output=True, text=True, timeout=4 * PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        # Debian's Rails has warnings of its own.
        lines = done.stderr.splitlines()
        assert [line for line in lines if "warning: " in line and line.startswith((str(GEM), str(tmp_path)))] == []
        return done.stdout

    return run


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


@pytest.fixture(scope="module")
def keyed() -> Iterator[ServerProcess]:
    with ServerProcess(env={"FASTCABLE_BROADCAST_KEY": "s3cret"}) as process:
        yield process


def broadcast_url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}/_broadcast"


def ruby(*arguments: str | Path) -> list[str | Path]:
    return ["ruby", "-w", "-I", GEM / "lib", *arguments]


@pytest.mark.parametrize("name", TESTS)
def test_of_its_own(server: ServerProcess, keyed: ServerProcess, run: Run, name: str) -> None:
    output = run(
        *ruby(GEM / "test" / f"{name}.rb"),
        FASTCABLE_TEST_URL=broadcast_url(server), FASTCABLE_TEST_KEYED_URL=broadcast_url(keyed),
    )  # fmt: skip
    assert re.search(r"\b[1-9][0-9]* runs, .* 0 failures, 0 errors, 0 skips", output)


def test_the_examples_of_its_manual(spawn: Spawn, run: Run) -> None:
    server = spawn()  # of its own, as they leave retained values
    first = snippet(README, "ruby", 'require "fastcable"').replace("Fastcable", "p Fastcable")
    others = snippet(README, "ruby", 'Fastcable.broadcast("scores"').replace("\nFastcable", "\np Fastcable")
    settings = at(server.port, snippet(README, "ruby", "Fastcable.configure do"))
    program = f'{first}\nid = "x"\np {others}\n{settings}\np {others}'
    assert run(*ruby("-e", program), FASTCABLE_BROADCAST_URL=broadcast_url(server)) == "0\n" * 11


# --- as a gem ---------------------------------------------------------------------------------------------------------


def test_it_can_be_built_and_installed(server: ServerProcess, run: Run, tmp_path: Path) -> None:
    shutil.copytree(GEM, tmp_path / "source", ignore=shutil.ignore_patterns("test"))
    run("gem", "build", "-C", tmp_path / "source", "fastcable.gemspec")
    gems = tmp_path / "gems"
    gem = tmp_path / "source" / f"fastcable-{__version__}.gem"
    run("gem", "install", "--local", "--no-document", "--install-dir", gems, gem)
    program = 'gem "fastcable"; require "fastcable"; p Fastcable.broadcast("news", 1), Fastcable::VERSION'
    output = run("ruby", "-w", "-e", program, GEM_HOME=str(gems), FASTCABLE_BROADCAST_URL=broadcast_url(server))
    assert output == f'0\n"{__version__}"\n'


def test_bundler_takes_the_directory(server: ServerProcess, run: Run, tmp_path: Path) -> None:
    shutil.copytree(GEM, tmp_path / "vendor" / "fastcable")
    (tmp_path / "Gemfile").write_text(snippet(README, "ruby", "# Gemfile"))
    program = 'Bundler.require; p Fastcable.broadcast("news", 1)'
    assert run("ruby", "-r", "bundler/setup", "-e", program, FASTCABLE_BROADCAST_URL=broadcast_url(server)) == "0\n"


def test_it_has_the_version_of_the_server(run: Run) -> None:
    assert run(*ruby("-r", "fastcable/version", "-e", "puts Fastcable::VERSION")) == f"{__version__}\n"


# --- in Rails ---------------------------------------------------------------------------------------------------------


class Application:
    """A Rails application that has this config/cable.yml."""

    def __init__(self, run: Run, root: Path, cable_yml: str) -> None:
        self._run = run
        self._config = root / "config"
        self._config.mkdir()
        (self._config / "cable.yml").write_text(cable_yml)

    def initializer(self, source: str) -> None:
        (self._config / "initializers").mkdir()
        (self._config / "initializers" / "fastcable.rb").write_text(source)

    def run(self, program: str, **environment: str) -> str:
        return self._run(
            *ruby("-r", GEM / "test" / "application.rb", "-e", program), **{"RAILS_ENV": "production", **environment}
        )


def receive(client: Client, *texts: str) -> None:
    for text in texts:
        while (frame := client.read_frame()) == (TEXT, b'{"type":"ping"}'):
            pass
        assert frame == (TEXT, text.encode())


def test_rails_broadcasts_with_nothing_but_cable_yml(keyed: ServerProcess, run: Run, tmp_path: Path) -> None:
    application = Application(run, tmp_path, at(keyed.port, snippet(README, "yaml", "# config/cable.yml")))
    program = """
        p ActionCable.server.broadcast("news", { title: "<b> & ü" })
        p ScoresChannel.broadcast_to("final", { "heat" => 2**70 })
        # Turbo::StreamsChannel.broadcast_stream_to("final", content: …) ends in this call.
        p ActionCable.server.broadcast("final", '<turbo-stream action="append"></turbo-stream>'.html_safe)
        p Fastcable.broadcast("news", { at: Time.utc(2026) })
    """
    with keyed.connect("news", "scores:final", "final") as client:
        assert application.run(program, FASTCABLE_BROADCAST_KEY="s3cret") == "1\n1\n1\n1\n"
        receive(
            client,
            r'{"type":"message","stream":"news","data":{"title":"\u003cb\u003e \u0026 ü"}}',
            '{"type":"message","stream":"scores:final","data":{"heat":1180591620717411303424}}',
            r'{"type":"message","stream":"final","data":"\u003cturbo-stream action=\"append\"\u003e'
            r'\u003c/turbo-stream\u003e"}',
            '{"type":"message","stream":"news","data":{"at":"2026-01-01T00:00:00.000Z"}}',
        )


def test_rails_publishes_to_both_while_pages_move(server: ServerProcess, run: Run, tmp_path: Path) -> None:
    application = Application(run, tmp_path, "production: {adapter: async}\n")
    application.initializer(at(server.port, snippet("docs/migrating.md", "ruby", "# config/initializers/fastcable.rb")))
    program = """
        received = Queue.new
        subscribed = Queue.new
        ActionCable.server.pubsub.subscribe("news", received.method(:push), -> { subscribed << true })
        subscribed.pop
        ActionCable.server.broadcast("news", { at: Time.utc(2026) })
        puts received.pop
        Fastcable.configure { |config| config.url = "http://127.0.0.1:1/_broadcast" } # where nobody is
        ActionCable.server.broadcast("news", "without fastcable")
        puts received.pop, received.size
    """
    with server.connect("news") as client:
        assert application.run(program) == '{"at":"2026-01-01T00:00:00.000Z"}\n"without fastcable"\n0\n'
        receive(client, '{"type":"message","stream":"news","data":{"at":"2026-01-01T00:00:00.000Z"}}')


def test_a_wrong_entry_of_cable_yml_is_named_when_rails_starts(run: Run, tmp_path: Path) -> None:
    application = Application(run, tmp_path, "production: {adapter: fastcable, timeuot: 1}\n")
    with pytest.raises(AssertionError, match=r"config/cable\.yml: unknown option timeuot \(ArgumentError\)"):
        application.run("")


def test_other_adapters_are_left_alone(run: Run, tmp_path: Path) -> None:
    application = Application(run, tmp_path, "production: {adapter: redis, url: 'redis://127.0.0.1', ssl_params: 1}\n")
    assert application.run("puts Fastcable.configuration.url") == "http://127.0.0.1:3000/_broadcast\n"
