-- What commands that are done once were answered: written in the transaction of what they did, for those that are sent
-- again. `id` and `command` are hashes. Rows are deleted after some minutes, the oldest first.
CREATE TABLE results (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    command TEXT NOT NULL,
    answer TEXT NOT NULL
);

-- The request as the door had it that the job came by (JSON), the session in which it was made, and whether its owner is
-- an account. History is left alone: no job of it has any of these.
ALTER TABLE jobs ADD COLUMN original TEXT;
ALTER TABLE jobs ADD COLUMN session TEXT;
ALTER TABLE jobs ADD COLUMN of_account INTEGER NOT NULL DEFAULT 0;
ALTER TABLE history ADD COLUMN original TEXT;
ALTER TABLE history ADD COLUMN session TEXT;
ALTER TABLE history ADD COLUMN of_account INTEGER NOT NULL DEFAULT 0;
