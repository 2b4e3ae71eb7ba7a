"""Whose connections there are."""

from __future__ import annotations

import pytest

from fastcable._hub import Hub, Subscriber
from fastcable.sessions import Sessions


class Peer(Subscriber):
    """Is told to close, and does so as a connection does: the hub hears of it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.closed: list[tuple[int, str]] = []

    def close(self, code: int, reason: str = "") -> None:
        self.closed.append((code, reason))
        self.hub.disconnected(self, True)


@pytest.fixture
def hub() -> Hub:
    return Hub(lambda callback: None)


@pytest.mark.parametrize(("reconnect", "ending"), [
    (True, (1000, "closed remotely")), (False, (1000, "closed remotely for good"))])
def test_all_of_an_identifier_are_disconnected_and_nobody_else(
    hub: Hub, reconnect: bool, ending: tuple[int, str]
) -> None:
    peers = [Peer(hub) for _ in range(4)]
    for peer, identifier in zip(peers, "aaba", strict=True):
        hub.sessions.add(identifier, peer)
    assert hub.sessions.disconnect("a", reconnect) == 3
    assert [peer.closed for peer in peers] == [[ending], [ending], [], [ending]]
    assert len(hub.sessions) == 1
    assert hub.sessions.disconnect("a", reconnect) == 0


def test_who_has_gone_is_forgotten(hub: Hub) -> None:
    peers = [Peer(hub), Peer(hub)]
    for peer in peers:
        hub.sessions.add("a", peer)
    for _ in range(2):
        hub.disconnected(peers[0], False)
    assert hub.sessions.disconnect("a", True) == 1
    assert peers[0].closed == []


def test_the_last_identifier_counts(hub: Hub) -> None:
    peer = Peer(hub)
    hub.sessions.add("a", peer)
    hub.sessions.add("b", peer)
    assert (hub.sessions.disconnect("a", True), hub.sessions.disconnect("b", True)) == (0, 1)


def test_nobody_is_no_error() -> None:
    sessions = Sessions()
    assert sessions.disconnect("nobody", True) == len(sessions) == 0
