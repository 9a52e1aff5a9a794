-- Counts of another form, which nothing can turn the old ones into: all is counted anew from the topics, as far as they
-- reach back. What the topics tell of serving states is read again with it.
DROP TABLE panes, label_panes, late, watermarks, parked, windows, evaluations, models, versions;
DELETE FROM offsets;
DELETE FROM seen;

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
    champion int NOT NULL,
    -- The champion before, for the report that says what the roll-out did.
    previous int
);

-- Mergeable counts of one slice of event time: of predictions (kind 0) or of their labels (kind 1); kind 2 are all labels
-- of a partition together. Only who owns the
-- partition's offset adds to its rows, and who takes predictions out of `parked`. Rolled-up panes are all partitions' (−1).
CREATE TABLE panes (
    model_name text NOT NULL,
    model_version int NOT NULL,
    kind smallint NOT NULL,
    starts timestamptz NOT NULL,
    seconds double precision NOT NULL,
    partition int NOT NULL,
    n bigint NOT NULL,
    first_offset bigint NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (model_name, model_version, kind, starts, seconds, partition)
);

-- All that was ever counted, whatever became of its pane. `beyond` came after the time for which panes are kept, and is
-- part of `n`.
CREATE TABLE totals (
    model_name text NOT NULL,
    model_version int NOT NULL,
    kind smallint NOT NULL,
    partition int NOT NULL,
    n bigint NOT NULL,
    beyond bigint NOT NULL,
    PRIMARY KEY (model_name, model_version, kind, partition)
);

-- The latest event time that each partition has shown: the watermark is the smallest of those that still flow.
CREATE TABLE watermarks (
    topic text NOT NULL,
    partition int NOT NULL,
    event_time timestamptz NOT NULL,
    PRIMARY KEY (topic, partition)
);

-- Records of a version whose profile is not known yet, as they were read.
CREATE TABLE parked (
    topic text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    kind smallint NOT NULL,
    model_name text NOT NULL,
    model_version int NOT NULL,
    parked_at timestamptz NOT NULL,
    key bytea,
    value bytea NOT NULL,
    headers bytea NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
);
CREATE INDEX parked_by_version ON parked (model_name, model_version);
CREATE INDEX parked_by_age ON parked (parked_at);

-- One row a version: how far its windows have tiled, its alarms, and what its closed windows held. Its lock is the
-- evaluator's.
CREATE TABLE evaluations (
    model_name text NOT NULL,
    model_version int NOT NULL,
    -- Panes before this instant belong to closed windows.
    tiled_until timestamptz,
    alarms jsonb NOT NULL DEFAULT '{}',
    verdict text NOT NULL DEFAULT 'GOOD',
    windows int NOT NULL DEFAULT 0,
    judged bigint NOT NULL DEFAULT 0,
    -- Closed windows up to this instant were looked at for their labels.
    labelled_until timestamptz,
    performance_windows int NOT NULL DEFAULT 0,
    -- The event that opened the alarm, while it is open.
    opened_by text,
    attribution jsonb,
    superseded boolean NOT NULL DEFAULT false,
    PRIMARY KEY (model_name, model_version)
);

-- Every closed window with its result, for the report and for whoever asks later why an alarm opened. `offsets` holds,
-- for each partition, the first record that may count and the one after the last: a replay reads exactly those.
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
    attribution jsonb,
    offsets jsonb NOT NULL,
    topic_id text NOT NULL,
    state bytea NOT NULL,
    evaluated_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, model_version, number)
);
CREATE INDEX windows_by_time ON windows (model_name, model_version, starts);

-- Windows of labelled rows, each one or several closed windows long.
CREATE TABLE performance_windows (
    model_name text NOT NULL,
    model_version int NOT NULL,
    number int NOT NULL,
    starts timestamptz NOT NULL,
    ends timestamptz NOT NULL,
    n bigint NOT NULL,
    result jsonb NOT NULL,
    offsets jsonb NOT NULL,
    evaluated_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, model_version, number)
);

-- Which replica evaluates. A lease keeps them from doing it all at once; what fences them is the evaluation's row.
CREATE TABLE leases (
    name text PRIMARY KEY,
    holder text NOT NULL,
    until timestamptz NOT NULL
);
