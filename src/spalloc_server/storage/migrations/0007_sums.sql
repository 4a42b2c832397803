-- Boards that a job had before its last ones (JSON): those that failed it, or that an emergency stop took. History is left
-- alone, since clients wait: such an old row has all its board-seconds where it was last.
ALTER TABLE jobs ADD COLUMN earlier TEXT;
ALTER TABLE history ADD COLUMN earlier TEXT;

-- How many boards of a machine were in use, and so on, in an hour, or in longer while that did not change.
CREATE TABLE board_time (
    machine TEXT NOT NULL,
    began REAL NOT NULL,
    until REAL NOT NULL,
    boards INTEGER NOT NULL,
    in_use INTEGER NOT NULL,
    cooling INTEGER NOT NULL,
    out INTEGER NOT NULL,
    boards_s REAL NOT NULL,
    in_use_s REAL NOT NULL,
    cooling_s REAL NOT NULL,
    out_s REAL NOT NULL,
    PRIMARY KEY (machine, began)
) WITHOUT ROWID;

-- What is kept of jobs that are no longer in the history: sums of each day, added to in the transaction that deletes them.
CREATE TABLE days (
    day TEXT NOT NULL,
    owner TEXT NOT NULL,
    machine TEXT NOT NULL,
    size INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    started INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    again INTEGER NOT NULL,
    board_seconds REAL NOT NULL,
    waited REAL NOT NULL,
    longest REAL NOT NULL,
    waits TEXT NOT NULL,
    PRIMARY KEY (day, owner, machine, size)
) WITHOUT ROWID;
