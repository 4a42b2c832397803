-- Who has put a queued job on hold, when and why (JSON). In history it is null; it is there since both have the same columns.
ALTER TABLE jobs ADD COLUMN held TEXT;
ALTER TABLE history ADD COLUMN held TEXT;
