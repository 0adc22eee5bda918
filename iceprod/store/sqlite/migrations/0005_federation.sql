-- `sites` is JSON (rows.py); a dataset with a `source` stands for one of another site.
ALTER TABLE datasets ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE datasets ADD COLUMN sites TEXT NOT NULL DEFAULT '{}';

CREATE TABLE peers (
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (role, name)
) WITHOUT ROWID;

-- `original` is JSON.
CREATE TABLE errands (
    task_id TEXT NOT NULL UNIQUE,
    parent TEXT NOT NULL,
    parent_task_id TEXT NOT NULL,
    lease_id TEXT NOT NULL,
    token TEXT NOT NULL,
    original TEXT NOT NULL,
    taken_at REAL NOT NULL,
    status TEXT NOT NULL,
    ended_at REAL NOT NULL
);
CREATE INDEX errands_lease ON errands (parent, lease_id);
CREATE INDEX errands_status ON errands (parent, status, task_id);
CREATE INDEX errands_ended ON errands (ended_at) WHERE status != 'open';

-- A number is never given twice.  Dead letters are the rows with a reason; `body` is JSON.
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    peer TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    task_id TEXT NOT NULL,
    lease_id TEXT NOT NULL,
    at REAL NOT NULL,
    body TEXT NOT NULL,
    reason TEXT,
    buried_at REAL,
    UNIQUE (peer, operation_id)
);
CREATE INDEX outbox_waiting ON outbox (peer, number) WHERE reason IS NULL;
CREATE INDEX outbox_dead ON outbox (peer, number) WHERE reason IS NOT NULL;
CREATE INDEX outbox_letters ON outbox (number) WHERE reason IS NOT NULL;
