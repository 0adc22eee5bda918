-- Jobs that were forgotten; `jobs_made` counts them, too, for no index is given twice.
ALTER TABLE datasets ADD COLUMN jobs_removed INTEGER NOT NULL DEFAULT 0;
