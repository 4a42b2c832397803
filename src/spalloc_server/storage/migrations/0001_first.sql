-- Times are seconds since the Unix epoch; args, kwargs, boards, frames, failures, reports and fact values are JSON.
-- No foreign keys: a release may name a job whose line of history is pruned already.
PRAGMA application_id = 0x53704E4E;

-- Jobs that have not ended. Kept apart from history, so that a start reads nothing else.
CREATE TABLE jobs (
    job_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    args TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    keepalive REAL,
    keepalivehost TEXT,
    state INTEGER NOT NULL,
    power INTEGER,
    created_at REAL NOT NULL,
    allocated_at REAL,
    ready_at REAL,
    ended_at REAL,
    reason TEXT,
    operation INTEGER,
    placements INTEGER NOT NULL,
    board_seconds REAL NOT NULL,
    created_from TEXT,
    machine TEXT,
    x INTEGER,
    y INTEGER,
    width INTEGER,
    height INTEGER,
    single INTEGER,
    boards TEXT
);

-- Jobs that have ended; a job's row moves here in the transaction that ends it.
CREATE TABLE history (
    job_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    args TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    keepalive REAL,
    keepalivehost TEXT,
    state INTEGER NOT NULL,
    power INTEGER,
    created_at REAL NOT NULL,
    allocated_at REAL,
    ready_at REAL,
    ended_at REAL NOT NULL,
    reason TEXT,
    operation INTEGER,
    placements INTEGER NOT NULL,
    board_seconds REAL NOT NULL,
    created_from TEXT,
    machine TEXT,
    x INTEGER,
    y INTEGER,
    width INTEGER,
    height INTEGER,
    single INTEGER,
    boards TEXT
);
CREATE INDEX history_by_end ON history (ended_at);

-- Boards on their way from a job back to everybody.
CREATE TABLE releases (
    release_id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    machine TEXT NOT NULL,
    boards TEXT NOT NULL,
    frames TEXT NOT NULL,
    rest_until REAL
);

-- Boards that have a record: out of service, or with failures or reports that are remembered.
CREATE TABLE boards (
    machine TEXT NOT NULL,
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    z INTEGER NOT NULL,
    out_of_service TEXT,
    "by" TEXT,
    since REAL,
    failures TEXT NOT NULL,
    reports TEXT NOT NULL,
    counts_from REAL NOT NULL,
    strikes INTEGER NOT NULL,
    trial_at REAL,
    PRIMARY KEY (machine, x, y, z)
) WITHOUT ROWID;

CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
