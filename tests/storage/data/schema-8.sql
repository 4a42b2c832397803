-- A state of schema 8, as the first version with it wrote it. Never to be changed.
PRAGMA application_id = 0x53704E4E;
PRAGMA user_version = 8;
BEGIN TRANSACTION;
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
INSERT INTO "board_time" VALUES('hall',1000.0,1300.5,24,24,0,0,7212.0,7000.0,0.0,0.0);
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
INSERT INTO "boards" VALUES('hall',4,0,2,'FPGA 1 does not answer','server',2000.0,'[[1990.5,"FPGA 1 does not answer"],[1999.5,"FPGA 1 does not answer"]]','[[1980.5,"ada@example.org","127.0.0.1","no answer"]]',1990.0,2,5600.0);
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
INSERT INTO "days" VALUES('1970-01-01','ada@example.org','hall',24,1,1,0,0,100.5,2.5,2.5,'{"2":1}');
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "facts" VALUES('next_id','3');
INSERT INTO "facts" VALUES('run_times','{"ada@example.org":[10.5,20.25]}');
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
, due REAL, wraps INTEGER, stopped TEXT, request TEXT, original TEXT, session TEXT, of_account INTEGER NOT NULL DEFAULT 0, earlier TEXT, held TEXT);
INSERT INTO "history" VALUES(2,'ada@example.org','[24]','{"tags":["default"],"min_ratio":0.333,"max_dead_boards":null,"require_torus":false}',60.0,'127.0.0.1',4,NULL,1002.5,1003.25,1022.125,1500.5,'Finished.',7,1,123.75,'127.0.0.1','hall',1,2,2,4,0,'[[1,2,0],[1,2,1],[1,2,2],[2,2,0],[2,2,1],[2,2,2],[1,3,0],[1,3,1],[1,3,2],[2,3,0],[2,3,1],[2,3,2],[1,4,0],[1,4,1],[1,4,2],[2,4,0],[2,4,1],[2,4,2],[1,5,0],[1,5,1],[1,5,2],[2,5,0],[2,5,1],[2,5,2]]',1302.5,1,'[[1,2,0,2],[1,2,2,5]]','{"boards":24,"tags":["default"],"min_ratio":0.333}','{"num-boards":24}',NULL,1,'[["hall",24,1002.75,1003.0]]',NULL);
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
, due REAL, wraps INTEGER, stopped TEXT, request TEXT, original TEXT, session TEXT, of_account INTEGER NOT NULL DEFAULT 0, earlier TEXT, held TEXT);
INSERT INTO "jobs" VALUES(1,'ada@example.org','[24]','{"tags":["default"],"min_ratio":0.333,"max_dead_boards":null,"require_torus":false}',60.0,'127.0.0.1',3,1,1001.5,1002.25,1021.125,NULL,NULL,7,1,123.75,'127.0.0.1','hall',1,2,2,4,0,'[[1,2,0],[1,2,1],[1,2,2],[2,2,0],[2,2,1],[2,2,2],[1,3,0],[1,3,1],[1,3,2],[2,3,0],[2,3,1],[2,3,2],[1,4,0],[1,4,1],[1,4,2],[2,4,0],[2,4,1],[2,4,2],[1,5,0],[1,5,1],[1,5,2],[2,5,0],[2,5,1],[2,5,2]]',1301.5,1,'[[1,2,0,2],[1,2,2,5]]','{"owner":"ada@example.org","boards":24,"tags":["default"],"min_ratio":0.333}','{"num-boards":24}','s0123456789abcdef',1,'[["hall",24,1001.75,1002.0]]','{"reason":"night","by":"eve","since":1600.5}');
CREATE TABLE releases (
    release_id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    machine TEXT NOT NULL,
    boards TEXT NOT NULL,
    frames TEXT NOT NULL,
    rest_until REAL
);
INSERT INTO "releases" VALUES(8,3,'hall','[[0,0,0],[0,0,1]]','[{"bmp":"192.0.2.1","boards":[0,5],"stopped":[[0,2],[5,4]]}]',1234.5);
CREATE TABLE results (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    command TEXT NOT NULL,
    answer TEXT NOT NULL
);
INSERT INTO "results" VALUES(1,'00000000000000000000000000000001','0123456789abcdef0123456789abcdef','1');
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    account INTEGER NOT NULL,
    token TEXT,
    began_at REAL NOT NULL,
    used_at REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "sessions" VALUES('s1',1,'t1',1000.5,1301.25);
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
INSERT INTO "tokens" VALUES('t1',1,'abababababababababababababababababababababababababababababababab','reader','night
runs',1001.5,9000.25,1300.5);
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
INSERT INTO "users" VALUES(1,'ada@example.org','user','$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA',0,1000.5,1100.25,1200.5,3.25,'["127.0.0.1","2001:db8::/64"]');
CREATE INDEX history_by_end ON history (ended_at);
COMMIT;
