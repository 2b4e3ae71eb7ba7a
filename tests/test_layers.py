"""The rooms of the package stand on each other, and imports point downwards only."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "fastcable"

LAYERS = (
    # what is known of nothing else
    ("options", "control_groups", "log", "stream_name", "_deadlines", "response", "event_loop", "_json", "_frames",
     "deflate", "extensions", "_threads", "_histogram", "retained", "socket_ids", "sessions", "bus", "succession",
     "terminal", "idle", "standard_streams", "surplus"),
    ("channels", "cores"),
    ("settings", "origins", "_handshake", "_request", "_posts", "chunked", "signing", "jws"),
    ("tokens", "authorization"),
    ("token_places", "credentials"),
    ("configuration", "systemd", "descriptors", "check", "client.endpoint", "client.errors", "client.answer",
     "client.websocket", "client.listener"),
    ("listeners", "client.messages", "client.connection"),
    ("client.kept",),
    ("client.posting",),
    ("client.publisher", "client.async_publisher"),
    ("client.publish",),
    ("client.listen",),
    # streams, then those who are subscribed to them, then their fan-out and clock
    ("_hub", "_pending", "_meter"),
    ("_outbox",),
    ("dialects",),
    ("dialects.refusal",),
    ("brokers", "brokers.message", "dialects._simple", "dialects._actioncable", "_connection"),
    ("admission", "dialects.configured", "switch", "link"),
    ("switch_ports", "brokers.workers"),
    ("brokers.memory",),
    # a broker beside them, from the connection up
    ("brokers.redis_channels", "brokers.redis_endpoint", "brokers.redis_health", "brokers.redis_replies"),
    ("brokers.redis_connection",),
    ("brokers.redis_publishing", "brokers.redis_subscriptions"),
    ("brokers.redis",),
    # and databases
    ("sources", "sources.solid_cable"),
    ("sources.window", "sources.sqlite", "sources.postgresql"),
    ("sources.poller",),
    ("sources.joined",),
    ("brokers.configured",),
    ("_fanout", "_texts"),
    ("_heartbeat", "journal"),
    ("statistics",),
    ("colleagues", "metrics", "live_status"),
    ("reports",),
    # HTTP in front of them
    ("handover",),
    ("_broadcasts", "memory", "addresses"),
    ("entrance",),
    ("_endpoints",),
    ("_http", "heartbeat"),
    ("server",),
    # one process or several, and their successors
    ("worker", "reload"),
    ("process", "supervisor"),
    ("launch",),
    # the same inside an application's server
    ("asgi.types", "asgi.cable", "asgi.http"),
    ("asgi.websocket",),
    ("asgi.middleware",),
    ("asgi",),
    ("cli",),
    ("__main__",),
)
IMPORT = re.compile(
    r"^( *)(?:from (fastcable[\w.]*|\.\w*) c?import \(?([\w, ]+)|import (fastcable[\w.]*))", re.MULTILINE
)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".pyx")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that one imports when it runs (not only for its types)."""
    found = set()
    text = re.sub(r"^if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", path.read_text(), flags=re.MULTILINE)
    for _, package, names, plain in IMPORT.findall(text):
        base = (plain or package).removeprefix("fastcable").strip(".")
        submodules = {f"{base}.{name.strip()}".strip(".") for name in names.split(",")}
        found |= {base, *submodules} & known
    return found - {""}


def test_every_module_has_its_layer() -> None:
    assert sorted(name for layer in LAYERS for name in layer) == sorted(modules().keys() - {"", "client"})


def test_imports_point_downwards() -> None:
    level = {name: index for index, layer in enumerate(LAYERS) for name in layer} | {"client": 0}
    upwards = [
        f"{name} imports {other}"
        for name, path in modules().items() if name in level
        for other in imports(path, set(level))
        # Neighbours may know each other's interface (brokers.memory that of brokers), but not in a circle.
        if level[other] > level[name] or (level[other] == level[name] and name in imports(modules()[other], set(level)))
    ]
    assert upwards == []
