-- What a restored database must know of the log that went on without it: see restoring.py.

-- An event keeps the name under which it was numbered; NULL is its shard's present one.
ALTER TABLE outbox ADD COLUMN source text;

-- Names that shards had before. What they numbered after the backup counts for nobody.
CREATE TABLE outbox_retired (
    source text PRIMARY KEY
);
