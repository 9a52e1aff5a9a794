-- One row a model: the serving state that the trainer last decided. Its lock is taken before every decision.
CREATE TABLE models (
    model_name text PRIMARY KEY,
    revision bigint NOT NULL DEFAULT 0,
    champion int,
    next_version int NOT NULL DEFAULT 1,
    changed_at timestamptz NOT NULL
);

CREATE TABLE versions (
    model_name text NOT NULL REFERENCES models,
    version int NOT NULL,
    status text NOT NULL CHECK (status IN ('champion', 'retired', 'rejected')),
    artifact jsonb NOT NULL,
    card jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, version)
);
CREATE UNIQUE INDEX one_champion ON versions (model_name) WHERE status = 'champion';

CREATE TABLE revisions (
    model_name text NOT NULL REFERENCES models,
    revision bigint NOT NULL,
    state jsonb NOT NULL,
    decided_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, revision)
);

-- A drift alarm that asks for a retraining. It waits here, visibly, for what it lacks.
CREATE TABLE requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name text NOT NULL REFERENCES models,
    model_version int NOT NULL,
    event_id text NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('waiting', 'promoted', 'withdrawn', 'superseded')),
    changed_since timestamptz NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    -- What it waits for or how it ended, in words and numbers.
    reason text NOT NULL DEFAULT '',
    lacking jsonb NOT NULL DEFAULT '{}',
    attempts int NOT NULL DEFAULT 0,
    -- After a rejection the next attempt judges on labels that no attempt has seen.
    labels_before_next int NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_waiting_request ON requests (model_name) WHERE state = 'waiting';

CREATE TABLE replicas (
    model_name text NOT NULL,
    replica text NOT NULL,
    revision bigint NOT NULL,
    model_version int NOT NULL,
    since timestamptz NOT NULL,
    reported_at timestamptz NOT NULL,
    error text,
    PRIMARY KEY (model_name, replica)
);
