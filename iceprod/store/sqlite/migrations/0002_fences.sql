-- The fence under which a document was written last: an older holder of a duty cannot overwrite it.
ALTER TABLE vals ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
