-- What a job's user was told when its boards were given: the axes that it wraps around, and which links between its own
-- boards are stopped (JSON). Jobs that run already have none: a start works out what they were told.
ALTER TABLE jobs ADD COLUMN wraps INTEGER;
ALTER TABLE jobs ADD COLUMN stopped TEXT;
ALTER TABLE history ADD COLUMN wraps INTEGER;
ALTER TABLE history ADD COLUMN stopped TEXT;
