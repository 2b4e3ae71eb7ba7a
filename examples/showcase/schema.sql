-- Keys are random (access.py makes them): `key` is the unguessable part of stream names, `token` that of sign-in links.
-- The two are never the same value: whoever sees a stream's name must not be able to sign in with it.

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    place TEXT NOT NULL,
    couples_per_heat INTEGER NOT NULL DEFAULT 6,
    heat_id INTEGER REFERENCES heat,               -- on the floor now
    heat_version INTEGER NOT NULL DEFAULT 1,       -- rises with every change of what is on the floor
    scores_version INTEGER NOT NULL DEFAULT 1      -- rises with every mark
);

CREATE TABLE person (
    id INTEGER PRIMARY KEY,
    event_id INTEGER NOT NULL REFERENCES event,
    key TEXT NOT NULL UNIQUE,
    token TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('organiser', 'judge', 'viewer')),
    name TEXT NOT NULL,
    letter TEXT NOT NULL DEFAULT ''                -- judges are called A, B, C …
);

CREATE TABLE couple (
    id INTEGER PRIMARY KEY,
    event_id INTEGER NOT NULL REFERENCES event,
    number INTEGER NOT NULL,                       -- worn on the leader's back
    leader TEXT NOT NULL,
    follower TEXT NOT NULL,
    club TEXT NOT NULL,
    UNIQUE (event_id, number)
);

CREATE TABLE round (
    id INTEGER PRIMARY KEY,
    event_id INTEGER NOT NULL REFERENCES event,
    position INTEGER NOT NULL,
    title TEXT NOT NULL,
    dance TEXT NOT NULL,
    recall INTEGER NOT NULL                        -- so many couples dance the next round
);

CREATE TABLE heat (
    id INTEGER PRIMARY KEY,
    round_id INTEGER NOT NULL REFERENCES round,
    number INTEGER NOT NULL
);

CREATE TABLE entry (
    heat_id INTEGER NOT NULL REFERENCES heat ON DELETE CASCADE,
    couple_id INTEGER NOT NULL REFERENCES couple,
    PRIMARY KEY (heat_id, couple_id)
);

CREATE TABLE mark (                                -- a cross: this judge wants to see this couple again
    round_id INTEGER NOT NULL REFERENCES round,
    couple_id INTEGER NOT NULL REFERENCES couple,
    judge_id INTEGER NOT NULL REFERENCES person,
    PRIMARY KEY (round_id, couple_id, judge_id)
);

CREATE TABLE draw (                                -- the last draw of heats that an organiser asked for
    person_id INTEGER PRIMARY KEY REFERENCES person,
    status TEXT NOT NULL,
    progress INTEGER NOT NULL,
    message TEXT NOT NULL
);

CREATE TABLE playlist (
    request TEXT PRIMARY KEY,                      -- random
    event_id INTEGER NOT NULL REFERENCES event,
    person_id INTEGER NOT NULL REFERENCES person,
    status TEXT NOT NULL,
    progress INTEGER NOT NULL,
    message TEXT NOT NULL,
    download_key TEXT
);

CREATE TABLE job (
    key TEXT PRIMARY KEY,                          -- random
    person_id INTEGER NOT NULL REFERENCES person,
    command TEXT NOT NULL,
    stream TEXT NOT NULL,
    exit_status INTEGER,                           -- NULL while it runs
    started_at TEXT NOT NULL DEFAULT (datetime('now'))
);
