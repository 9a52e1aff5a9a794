-- What each model version is compared with.
CREATE TABLE versions (
    model_name text NOT NULL,
    model_version int NOT NULL,
    artifact jsonb NOT NULL,
    profile jsonb NOT NULL,
    known_since timestamptz NOT NULL,
    PRIMARY KEY (model_name, model_version)
);

CREATE TABLE models (
    model_name text PRIMARY KEY,
    revision bigint NOT NULL,
    champion int NOT NULL
);

-- Mergeable counts of one slice of event time. The partition is part of the key, so that only the consumer that owns
-- the partition's offset writes the row; −1 is the evaluator's, for predictions that were parked.
CREATE TABLE panes (
    model_name text NOT NULL,
    model_version int NOT NULL,
    starts timestamptz NOT NULL,
    partition int NOT NULL,
    n bigint NOT NULL,
    counts bytea NOT NULL,
    PRIMARY KEY (model_name, model_version, starts, partition)
);

-- The latest event time that each partition has shown: the watermark is the smallest of those that still flow.
CREATE TABLE watermarks (
    topic text NOT NULL,
    partition int NOT NULL,
    event_time timestamptz NOT NULL,
    PRIMARY KEY (topic, partition)
);

-- Predictions of a version whose profile is not known yet.
CREATE TABLE parked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name text NOT NULL,
    model_version int NOT NULL,
    event jsonb NOT NULL
);
CREATE INDEX parked_by_version ON parked (model_name, model_version, id);

-- Realised performance: label counts by the pane of the prediction.
CREATE TABLE label_panes (
    model_name text NOT NULL,
    model_version int NOT NULL,
    starts timestamptz NOT NULL,
    partition int NOT NULL,
    counts bytea NOT NULL,
    PRIMARY KEY (model_name, model_version, starts, partition)
);

-- One row a version: how far its windows have tiled, its alarms, and what it has counted. Its lock is the evaluator's.
CREATE TABLE evaluations (
    model_name text NOT NULL,
    model_version int NOT NULL,
    -- Panes before this instant belong to closed windows.
    tiled_until timestamptz,
    alarms jsonb NOT NULL DEFAULT '{}',
    verdict text NOT NULL DEFAULT 'GOOD',
    windows int NOT NULL DEFAULT 0,
    superseded boolean NOT NULL DEFAULT false,
    PRIMARY KEY (model_name, model_version)
);

-- Every closed window with its result, for the report and for whoever asks later why an alarm opened.
CREATE TABLE windows (
    model_name text NOT NULL,
    model_version int NOT NULL,
    number int NOT NULL,
    starts timestamptz NOT NULL,
    ends timestamptz NOT NULL,
    n bigint NOT NULL,
    severity text NOT NULL,
    raw_severity text NOT NULL,
    result jsonb NOT NULL,
    evaluated_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, model_version, number)
);

-- Predictions that came after their window had closed are counted, not folded in.
CREATE TABLE late (
    model_name text NOT NULL,
    model_version int NOT NULL,
    partition int NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (model_name, model_version, partition)
);
