"""The Ruby gem: its own tests, as a gem, and in a Rails application, beside a running server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fastcable import __version__
from tests import rails
from tests.harness import TEXT, Client, ServerProcess, Spawn
from tests.rails import GEM, Application, ruby
from tests.snippets import at, snippet

README = "clients/ruby/README.md"
TESTS = sorted(path.stem for path in GEM.glob("test/*_test.rb"))

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command in an empty folder."""
    return partial(rails.run, tmp_path)


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


def receive(client: Client, *texts: str) -> None:
    for text in texts:
        while (frame := client.read_frame()) == (TEXT, b'{"type":"ping"}'):
            pass
        assert frame == (TEXT, text.encode())


def test_rails_broadcasts_with_nothing_but_cable_yml(keyed: ServerProcess, tmp_path: Path) -> None:
    application = Application(tmp_path, at(keyed.port, snippet(README, "yaml", "# config/cable.yml")))
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


def test_rails_publishes_to_both_while_pages_move(server: ServerProcess, tmp_path: Path) -> None:
    application = Application(tmp_path, "production: {adapter: async}\n")
    initializer = snippet("docs/migrating.md", "ruby", "# config/initializers/fastcable.rb")
    application.write("initializers/fastcable.rb", at(server.port, initializer))
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


def test_a_wrong_entry_of_cable_yml_is_named_when_rails_starts(tmp_path: Path) -> None:
    application = Application(tmp_path, "production: {adapter: fastcable, timeuot: 1}\n")
    with pytest.raises(AssertionError, match=r"config/cable\.yml: unknown option timeuot \(ArgumentError\)"):
        application.run("")


def test_other_adapters_are_left_alone(tmp_path: Path) -> None:
    application = Application(tmp_path, "production: {adapter: redis, url: 'redis://127.0.0.1', ssl_params: 1}\n")
    assert application.run("puts Fastcable.configuration.url") == "http://127.0.0.1:3000/_broadcast\n"
