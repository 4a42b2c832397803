-- Accounts, their tokens and sessions. Passwords and tokens are stored as hashes. `known` is JSON.
CREATE TABLE users (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    password TEXT,
    enabled INTEGER NOT NULL,
    created_at REAL NOT NULL,
    last_log_in REAL,
    last_failure REAL,
    wrong_passwords REAL NOT NULL,
    known TEXT NOT NULL
);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    account INTEGER NOT NULL,
    hash TEXT NOT NULL,
    role TEXT,
    note TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    used_at REAL
) WITHOUT ROWID;

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    account INTEGER NOT NULL,
    token TEXT,
    began_at REAL NOT NULL,
    used_at REAL NOT NULL
) WITHOUT ROWID;
