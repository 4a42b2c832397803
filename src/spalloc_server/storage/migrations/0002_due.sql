-- A job's place in the queue, so that a restart keeps it. Jobs that wait already have none: it is worked out anew.
ALTER TABLE jobs ADD COLUMN due REAL;
ALTER TABLE history ADD COLUMN due REAL;
