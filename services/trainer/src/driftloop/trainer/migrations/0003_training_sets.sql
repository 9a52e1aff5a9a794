-- What versions and rejected challengers were fitted to: the rows of the baseline, which come with the contract, and
-- labelled production rows, which are in a file of the set's own. Rows are marked before their file is deleted.
CREATE TABLE training_sets (
    model_name text NOT NULL,
    digest text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    rows int NOT NULL,
    labeled_rows int NOT NULL,
    created_at timestamptz NOT NULL,
    -- When its file was complete; NULL where there is none (yet).
    stored_at timestamptz,
    rebuildable boolean NOT NULL DEFAULT true,
    reason text,
    not_rebuildable_since timestamptz,
    -- When its file was deleted.
    purged_at timestamptz,
    PRIMARY KEY (model_name, digest),
    CHECK (rebuildable = (reason IS NULL) AND rebuildable = (not_rebuildable_since IS NULL)),
    CHECK (NOT rebuildable OR purged_at IS NULL)
);
CREATE INDEX training_sets_not_rebuildable ON training_sets (model_name) WHERE NOT rebuildable;

-- Whose rows a set holds, and of when the earliest of them is. Empty as soon as a set's file is to be deleted.
CREATE TABLE training_set_subjects (
    subject text COLLATE "C" NOT NULL,
    model_name text NOT NULL,
    digest text NOT NULL,
    earliest timestamptz NOT NULL,
    PRIMARY KEY (subject, model_name, digest),
    FOREIGN KEY (model_name, digest) REFERENCES training_sets
);
CREATE INDEX training_set_subjects_by_set ON training_set_subjects (model_name, digest);

-- Patients who were erased, by pseudonym: rows of theirs that were fetched before must not come back into a set.
CREATE TABLE erased_subjects (
    subject text COLLATE "C" PRIMARY KEY,
    erased_at timestamptz NOT NULL
);

-- Of versions that are there already only the digest is known. It is enough where the baseline was all.
INSERT INTO training_sets (model_name, digest, rows, labeled_rows, created_at, rebuildable, reason,
    not_rebuildable_since, purged_at)
SELECT DISTINCT ON (model_name, card->'training'->>'digest')
    model_name, card->'training'->>'digest', (card->'training'->>'rows')::int,
    (card->'training'->>'labeled_rows')::int, created_at, of_baseline,
    CASE WHEN NOT of_baseline THEN 'its rows were not kept' END,
    CASE WHEN NOT of_baseline THEN created_at END,
    CASE WHEN NOT of_baseline THEN created_at END
FROM versions CROSS JOIN LATERAL (SELECT (card->'training'->>'labeled_rows')::int = 0 AS of_baseline) AS b
ORDER BY model_name, card->'training'->>'digest', created_at;
