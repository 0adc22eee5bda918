-- The catalogue.  `checksums` and `replicas` are JSON; the names of both tables' columns are the model's.
CREATE TABLE files (
    dataset_id TEXT NOT NULL,
    name TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    owner TEXT NOT NULL,
    "group" TEXT NOT NULL,
    created_at REAL NOT NULL,
    job_index INTEGER,
    task_index INTEGER,
    checksums TEXT NOT NULL,
    replicas TEXT NOT NULL,
    here INTEGER NOT NULL,  -- 1 where this site keeps it, which counts in `stored`
    PRIMARY KEY (dataset_id, name)
) WITHOUT ROWID;
CREATE INDEX files_name ON files (name, dataset_id);
CREATE INDEX files_job ON files (dataset_id, job_index, name) WHERE job_index IS NOT NULL;
CREATE INDEX files_task ON files (dataset_id, task_index, name) WHERE task_index IS NOT NULL;
CREATE INDEX files_sha256 ON files (sha256, name, dataset_id);
CREATE INDEX files_owner ON files (owner, name, dataset_id);
CREATE INDEX files_group ON files ("group", name, dataset_id);

-- Moved in the transaction that changes the catalogue.
CREATE TABLE stored (
    kind TEXT NOT NULL,
    holder TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    files INTEGER NOT NULL,
    PRIMARY KEY (kind, holder)
) WITHOUT ROWID;

-- `place` begins with the day and holds the whole flow (store/holdings.py).
CREATE TABLE usage (
    place TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    dataset_id TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    transfers INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX usage_user ON usage (user, place);
CREATE INDEX usage_dataset ON usage (dataset_id, place);

CREATE TABLE quotas (
    kind TEXT NOT NULL,
    holder TEXT NOT NULL,
    bytes_most INTEGER,
    files_most INTEGER,
    PRIMARY KEY (kind, holder)
) WITHOUT ROWID;

CREATE TABLE credentials (
    user TEXT NOT NULL,
    origin TEXT NOT NULL,
    kind TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    note TEXT NOT NULL,
    PRIMARY KEY (user, origin)
) WITHOUT ROWID;
CREATE INDEX credentials_expiry ON credentials (expires_at) WHERE expires_at IS NOT NULL;
