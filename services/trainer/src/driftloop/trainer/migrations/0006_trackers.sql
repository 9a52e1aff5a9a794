-- What experiment trackers are to know: of each version how it last ended, and of each model what serves. Written in the
-- transaction of the decision, whether or not a tracker is configured: one that is added later is told of all versions.
CREATE TABLE tracked_runs (
    model_name text NOT NULL,
    version int NOT NULL,
    request bigint,
    outcome text NOT NULL CHECK (outcome IN ('canary', 'promoted', 'rejected', 'rolled-back')),
    -- What was measured after the card was signed, such as the canary's labels.
    metrics jsonb NOT NULL DEFAULT '{}',
    decided_at timestamptz NOT NULL,
    -- Rises with each decision: a tracker was told of the version if it was told of this number.
    change int NOT NULL DEFAULT 1,
    PRIMARY KEY (model_name, version),
    FOREIGN KEY (model_name, version) REFERENCES versions
);

CREATE TABLE tracked_models (
    model_name text PRIMARY KEY REFERENCES models,
    champion int,
    challenger int
);

-- How far each tracker is: no row, or one of an older change, means that it is still to be told.
CREATE TABLE tracked_sends (
    tracker text NOT NULL,
    model_name text NOT NULL,
    version int NOT NULL,
    change int NOT NULL,
    attempts int NOT NULL,
    first_tried_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    sent_at timestamptz,
    given_up_at timestamptz,
    PRIMARY KEY (tracker, model_name, version),
    FOREIGN KEY (model_name, version) REFERENCES tracked_runs,
    CHECK (sent_at IS NULL OR given_up_at IS NULL)
);

INSERT INTO tracked_runs (model_name, version, outcome, decided_at)
SELECT model_name, version, CASE status WHEN 'rejected' THEN 'rejected' ELSE 'promoted' END, created_at FROM versions;
INSERT INTO tracked_models (model_name, champion) SELECT model_name, champion FROM models;
