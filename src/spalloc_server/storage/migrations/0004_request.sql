-- What a job asks for (JSON), so that a restart need not work it out from the arguments of one protocol. Live jobs get it
-- with this migration (see row_migrations.py). History is left alone, since clients wait; it has it from now on.
ALTER TABLE jobs ADD COLUMN request TEXT;
ALTER TABLE history ADD COLUMN request TEXT;
