"""The two events that a new database begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from examples.showcase.keys import new_key

if TYPE_CHECKING:
    from examples.showcase.database import Database

JUDGES = (
    "Ada Lindqvist", "Bruno Keller", "Camille Roux", "Dmitri Sokolov", "Eleni Papadaki", "Fergus Byrne", "Greta Holm",
)
LEADERS = (
    "Adam", "Björn", "Carlos", "Dániel", "Emil", "Finn", "Giorgos", "Hugo", "Ivo", "Jonas", "Kenji", "Luca",
    "Marek", "Nils", "Oskar", "Paweł", "Quentin", "Rafael",
)
FOLLOWERS = (
    "Alma", "Beatriz", "Chloé", "Dorota", "Eszter", "Freya", "Giulia", "Hana", "Inês", "Jana", "Klára", "Léa",
    "Mirjam", "Nina", "Oksana", "Petra", "Qiana", "Rosa",
)
FAMILIES = (
    "Novák", "Weiss", "Moreau", "Rossi", "Jansen", "Kowalska", "Lund", "Costa", "Bauer", "Szabó", "Meyer", "Dvořák",
    "Fontaine", "Bianchi", "de Vries", "Nowak", "Berg", "Silva", "Gruber", "Varga",
)
COUPLES_PER_HEAT = 6


class Plan(NamedTuple):
    slug: str
    name: str
    place: str
    clubs: tuple[str, ...]
    title: str
    dances: tuple[str, ...]
    couples: range
    """Their numbers."""
    recall: int
    judges: int


PLANS = (
    Plan(
        "spring-gala", "Spring Gala", "Kursalon, Vienna",
        ("Rot-Gold Wien", "TSC Blau-Weiß", "Club Saltavento", "Studio 21"),
        "Adult Latin, semi-final", ("Samba", "Cha-cha-cha", "Rumba"), range(101, 113), 6, 7,
    ),
    Plan(
        "harbour-cup", "Harbour Cup", "Pavilion, Rotterdam",
        ("Noorderlicht", "Quay Dancers", "Den Haag Standard", "1. TC Kiel"),
        "Senior Standard, quarter-final", ("Slow waltz", "Tango"), range(305, 323), 9, 5,
    ),
)


def plant(database: Database) -> None:
    """Write the events into empty tables."""
    for plan in PLANS:
        event = database.run(
            "INSERT INTO event (slug, key, name, place) VALUES (?, ?, ?, ?)",
            plan.slug, new_key(), plan.name, plan.place,
        )
        people = [("organiser", "Organiser", ""), ("viewer", "Everybody in the hall", "")]
        people += [("judge", judge, "ABCDEFG"[seat]) for seat, judge in enumerate(JUDGES[: plan.judges])]
        for role, person, letter in people:
            database.run(
                "INSERT INTO person (event_id, key, token, role, name, letter) VALUES (?, ?, ?, ?, ?, ?)",
                event, new_key(), new_key(), role, person, letter,
            )
        couples = [
            database.run(
                "INSERT INTO couple (event_id, number, leader, follower, club) VALUES (?, ?, ?, ?, ?)",
                event, number, *names(number), plan.clubs[number % len(plan.clubs)],
            )
            for number in plan.couples
        ]
        for position, dance in enumerate(plan.dances):
            round_id = database.run(
                "INSERT INTO round (event_id, position, title, dance, recall) VALUES (?, ?, ?, ?, ?)",
                event, position, plan.title, dance, plan.recall,
            )
            draw_heats(database, round_id, couples, COUPLES_PER_HEAT)
        database.run(
            """UPDATE event SET heat_id = (SELECT heat.id FROM heat JOIN round ON round.id = round_id
               WHERE round.event_id = event.id ORDER BY position, heat.number LIMIT 1) WHERE id = ?""", event,
        )


def names(number: int) -> tuple[str, str]:
    """A leader's and a follower's."""
    family = number * 3
    leader = f"{LEADERS[number % len(LEADERS)]} {FAMILIES[family % len(FAMILIES)]}"
    return leader, f"{FOLLOWERS[number * 7 % len(FOLLOWERS)]} {FAMILIES[(family + 8) % len(FAMILIES)]}"


def draw_heats(database: Database, round_id: int, couples: list[int], per_heat: int) -> None:
    """Give each heat of a round as many couples, in numerical order within it."""
    heats = -(-len(couples) // per_heat)
    for number in range(heats):
        heat = database.run("INSERT INTO heat (round_id, number) VALUES (?, ?)", round_id, number + 1)
        for couple in couples[number::heats]:
            database.run("INSERT INTO entry (heat_id, couple_id) VALUES (?, ?)", heat, couple)
