-- A state of schema 7, as the first version with it wrote it, and rows from number 101 on that make no sense. Never to be changed.
PRAGMA application_id = 0x53704E4E;
PRAGMA user_version = 7;
BEGIN TRANSACTION;
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
INSERT INTO "facts" VALUES('everybody','{"last":[0.0],"sizes":{},"used":0.0,"at":1700000000.0,"total":0.0}');
INSERT INTO "facts" VALUES('machine/m','{"name":"m","tags":["default"],"width":4,"height":2,"dead_boards":[],"dead_links":[],"board_locations":[[[0,0,0],[0,0,0]],[[0,0,1],[0,0,1]],[[0,0,2],[0,0,2]],[[0,1,0],[0,0,3]],[[0,1,1],[0,0,4]],[[0,1,2],[0,0,5]],[[1,0,0],[0,0,6]],[[1,0,1],[0,0,7]],[[1,0,2],[0,0,8]],[[1,1,0],[0,0,9]],[[1,1,1],[0,0,10]],[[1,1,2],[0,0,11]],[[2,0,0],[0,0,12]],[[2,0,1],[0,0,13]],[[2,0,2],[0,0,14]],[[2,1,0],[0,0,15]],[[2,1,1],[0,0,16]],[[2,1,2],[0,0,17]],[[3,0,0],[0,0,18]],[[3,0,1],[0,0,19]],[[3,0,2],[0,0,20]],[[3,1,0],[0,0,21]],[[3,1,1],[0,0,22]],[[3,1,2],[0,0,23]]],"bmp_ips":[[[0,0],"192.0.2.1"]],"spinnaker_ips":[[[0,0,0],"board-0-0-0"],[[0,0,1],"board-0-0-1"],[[0,0,2],"board-0-0-2"],[[0,1,0],"board-0-1-0"],[[0,1,1],"board-0-1-1"],[[0,1,2],"board-0-1-2"],[[1,0,0],"board-1-0-0"],[[1,0,1],"board-1-0-1"],[[1,0,2],"board-1-0-2"],[[1,1,0],"board-1-1-0"],[[1,1,1],"board-1-1-1"],[[1,1,2],"board-1-1-2"],[[2,0,0],"board-2-0-0"],[[2,0,1],"board-2-0-1"],[[2,0,2],"board-2-0-2"],[[2,1,0],"board-2-1-0"],[[2,1,1],"board-2-1-1"],[[2,1,2],"board-2-1-2"],[[3,0,0],"board-3-0-0"],[[3,0,1],"board-3-0-1"],[[3,0,2],"board-3-0-2"],[[3,1,0],"board-3-1-0"],[[3,1,1],"board-3-1-1"],[[3,1,2],"board-3-1-2"]]}');
INSERT INTO "facts" VALUES('machines','["m"]');
INSERT INTO "facts" VALUES('next_id','6');
INSERT INTO "facts" VALUES('owner/gone','{"last":[0.0],"sizes":{"3":[0.0]},"used":0.0,"at":1700000000.0,"total":0.0}');
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
, due REAL, wraps INTEGER, stopped TEXT, request TEXT);
INSERT INTO "history" VALUES(1,'gone','[3]','{}',NULL,'127.0.0.1',4,NULL,1700000000.0,1700000000.0,1700000000.0,1700000000.0,'Enough.',NULL,1,0.0,'127.0.0.1','m',0,0,1,1,0,'[[0,0,0],[0,0,1],[0,0,2]]',1700000036.0,0,'[]','{"owner":"gone","boards":3,"tags":["default"],"min_ratio":0.0}');
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
, due REAL, wraps INTEGER, stopped TEXT, request TEXT);
INSERT INTO "jobs" VALUES(2,'ann@example.org','[2,1]','{"tags":["default"],"min_ratio":0.333,"max_dead_boards":null,"max_dead_links":null,"require_torus":false}',NULL,'127.0.0.1',3,1,1700000010.0,1700000010.0,1700000010.0,NULL,NULL,NULL,1,0.0,'127.0.0.1','m',0,0,2,1,0,'[[0,0,0],[0,0,1],[0,0,2],[1,0,0],[1,0,1],[1,0,2]]',1700000010.0,0,'[]','{"owner":"ann@example.org","triads":[2,1],"tags":["default"],"min_ratio":0.333}');
INSERT INTO "jobs" VALUES(3,'7','[3.0,null]','{"machine":"m","require_torus":0,"min_ratio":true}',600.0,'127.0.0.1',2,1,1700000010.0,1700000010.0,NULL,NULL,NULL,4,1,0.0,'127.0.0.1','m',2,0,1,1,0,'[[2,0,0],[2,0,1],[2,0,2]]',1700000010.0,0,'[]','{"owner":"7","boards":3,"machine":"m","tags":[],"min_ratio":1.0}');
INSERT INTO "jobs" VALUES(4,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'{"owner":"bob","boards":24,"tags":["default"],"min_ratio":0.3333333333333333,"max_dead_boards":3,"max_runtime":86400.0}');
INSERT INTO "jobs" VALUES(5,'cás 😀','[0,0,0]','{"max_dead_links":0,"priority":0}',1000000000.0,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'{"owner":"cás 😀","board":[0,0,0],"tags":["default"],"min_ratio":0.0,"max_dead_links":0}');
INSERT INTO "jobs" VALUES(101,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'{"owner":"bob"}');
INSERT INTO "jobs" VALUES(102,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'not JSON');
INSERT INTO "jobs" VALUES(103,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'{"owner":"bob","boards":"24"}');
INSERT INTO "jobs" VALUES(104,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'7');
INSERT INTO "jobs" VALUES(111,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'{"owner":"bob","boards":24,"colour":"red"}');
INSERT INTO "jobs" VALUES(112,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'[]');
INSERT INTO "jobs" VALUES(113,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'{"owner":"bob","boards":24,"tags":[3]}');
INSERT INTO "jobs" VALUES(114,'bob','[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[');
INSERT INTO "jobs" VALUES(121,CAST(x'ff' AS TEXT),'[24]','{"machine":null,"tags":["default"],"max_dead_boards":3.0,"max_runtime":86400,"min_ratio":3}',NULL,'127.0.0.1',1,NULL,1700000010.0,NULL,NULL,NULL,NULL,NULL,0,0.0,'127.0.0.1',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010.0,NULL,NULL,'{"owner":"bob","boards":24,"tags":["default"],"min_ratio":0.3333333333333333,"max_dead_boards":3,"max_runtime":86400.0}');
INSERT INTO "jobs" VALUES(131,'ann@example.org','[0.5]','{"tags":["default"],"min_ratio":0.333,"max_dead_boards":null,"max_dead_links":null,"require_torus":false}',NULL,'127.0.0.1',3,1,1700000010.0,1700000010.0,1700000010.0,NULL,NULL,NULL,1,0.0,'127.0.0.1','m',3,1,1,1,0,'[[3,1,0],[3,1,1],[3,1,2]]',1700000010.0,0,'[]','{"owner":"ann@example.org","triads":[0.5,1]}');
CREATE TABLE releases (
    release_id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    machine TEXT NOT NULL,
    boards TEXT NOT NULL,
    frames TEXT NOT NULL,
    rest_until REAL
);
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    account INTEGER NOT NULL,
    token TEXT,
    began_at REAL NOT NULL,
    used_at REAL NOT NULL
) WITHOUT ROWID;
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
CREATE INDEX history_by_end ON history (ended_at);
CREATE TABLE results (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    command TEXT NOT NULL,
    answer TEXT NOT NULL
);

ALTER TABLE jobs ADD COLUMN original TEXT;
ALTER TABLE jobs ADD COLUMN session TEXT;
ALTER TABLE jobs ADD COLUMN of_account INTEGER NOT NULL DEFAULT 0;
ALTER TABLE history ADD COLUMN original TEXT;
ALTER TABLE history ADD COLUMN session TEXT;
ALTER TABLE history ADD COLUMN of_account INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET original = '{"num-boards":24}', session = 's0123456789abcdef', of_account = 1 WHERE job_id = 4;
INSERT INTO results VALUES (1, '0123456789abcdef0123456789abcdef', 'fedcba9876543210fedcba9876543210', '4');
ALTER TABLE jobs ADD COLUMN earlier TEXT;
ALTER TABLE history ADD COLUMN earlier TEXT;
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
UPDATE jobs SET earlier = '[["m",3,1700000001.0,1700000005.0]]' WHERE job_id = 3;
INSERT INTO board_time VALUES ('m', 1699999990.0, 1700000010.0, 24, 3, 0, 0, 480.0, 12.0, 0.0, 0.0);
INSERT INTO facts VALUES ('board_time/m', '{"machine":"m","began":1700000010.0,"until":1700000010.0,"boards":24,"in_use":9,"cooling":0,"out":0,"boards_s":0.0,"in_use_s":0.0,"cooling_s":0.0,"out_s":0.0}');
INSERT INTO days VALUES ('2023-11-13', 'gone', 'm', 3, 1, 1, 0, 0, 30.0, 2.5, 2.5, '{"2":1}');
COMMIT;
