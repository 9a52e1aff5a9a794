-- A retraining goes through states, and each change is kept with its time and its reason.
DROP INDEX one_waiting_request;
ALTER TABLE requests DROP CONSTRAINT requests_state_check;
UPDATE requests SET state = 'awaiting-labels' WHERE state = 'waiting';
UPDATE requests SET state = 'withdrawn' WHERE state = 'superseded';
ALTER TABLE requests
    ADD CONSTRAINT requests_state_check CHECK (state IN
        ('awaiting-labels', 'training', 'evaluated', 'canary', 'promoted', 'rejected', 'rolled-back', 'withdrawn')),
    ADD CONSTRAINT requests_closed CHECK
        ((closed_at IS NULL) = (state IN ('awaiting-labels', 'training', 'evaluated', 'canary'))),
    -- A drift alarm, the clock, somebody, or a request that came to nothing while its alarm is still open.
    ADD COLUMN cause text NOT NULL DEFAULT 'drift' CHECK (cause IN ('drift', 'schedule', 'manual', 'follow-up')),
    ADD COLUMN concept_drift boolean NOT NULL DEFAULT false,
    -- How often a training was begun, and what came of it.
    ADD COLUMN tries int NOT NULL DEFAULT 0,
    ADD COLUMN challenger int,
    -- How many labels of the new population there were when it was judged, and since when the judging rows are.
    ADD COLUMN labels_judged int NOT NULL DEFAULT 0,
    ADD COLUMN judged_since timestamptz,
    -- The alarm that asked for it is over: where it comes to nothing, nothing follows.
    ADD COLUMN cleared boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX one_open_request ON requests (model_name) WHERE closed_at IS NULL;

CREATE TABLE request_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id bigint NOT NULL REFERENCES requests,
    state text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX request_changes_by_request ON request_changes (request_id);
CREATE INDEX request_changes_trainings ON request_changes (at) WHERE state = 'training';

-- When the clock asks for the next retraining.
CREATE TABLE schedules (
    model_name text PRIMARY KEY REFERENCES models,
    expression text NOT NULL,
    next_at timestamptz NOT NULL
);

ALTER TABLE versions DROP CONSTRAINT versions_status_check;
ALTER TABLE versions ADD CONSTRAINT versions_status_check CHECK (status IN
    ('evaluated', 'canary', 'champion', 'retired', 'rejected', 'rolled-back', 'abandoned'));

-- A challenger that is tried on live requests. `step` counts the contract's steps from 0.
CREATE TABLE rollouts (
    request_id bigint PRIMARY KEY REFERENCES requests,
    model_name text NOT NULL REFERENCES models,
    champion int NOT NULL,
    challenger int NOT NULL,
    step int NOT NULL,
    step_since timestamptz NOT NULL,
    -- The labels that there were when the step began.
    step_rows int NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    verdict jsonb
);
CREATE UNIQUE INDEX one_open_rollout ON rollouts (model_name) WHERE ended_at IS NULL;

-- What both models said of a labelled request, 1 or 0: of each patient one. A label that was taken back is NULL.
CREATE TABLE rollout_labels (
    request_id bigint NOT NULL REFERENCES rollouts,
    -- The patient's pseudonym behind `s:`, or the prediction's id behind `p:` where nobody says whose it is.
    unit text COLLATE "C" NOT NULL,
    prediction_id text NOT NULL,
    label smallint CHECK (label IN (0, 1)),
    champion smallint NOT NULL CHECK (champion IN (0, 1)),
    challenger smallint NOT NULL CHECK (challenger IN (0, 1)),
    PRIMARY KEY (request_id, unit)
);
CREATE INDEX rollout_labels_by_prediction ON rollout_labels (request_id, prediction_id);
CREATE INDEX rollout_labels_by_unit ON rollout_labels (unit);

-- All that a decision was made from, so that it can be made again; NULL after one of its patients was erased.
CREATE TABLE evidence (
    model_name text NOT NULL,
    version int NOT NULL,
    sha256 text NOT NULL,
    data bytea,
    removed_at timestamptz,
    PRIMARY KEY (model_name, version),
    FOREIGN KEY (model_name, version) REFERENCES versions,
    CHECK ((data IS NULL) = (removed_at IS NOT NULL))
);
CREATE TABLE evidence_subjects (
    subject text COLLATE "C" NOT NULL,
    model_name text NOT NULL,
    version int NOT NULL,
    earliest timestamptz NOT NULL,
    PRIMARY KEY (subject, model_name, version),
    FOREIGN KEY (model_name, version) REFERENCES evidence
);

-- Why nothing is to be learnt from the model's rows now, NULL where something may be.
ALTER TABLE models ADD COLUMN blocked text;

ALTER TABLE replicas
    ADD COLUMN refused_revision bigint,
    ADD COLUMN failing int[] NOT NULL DEFAULT '{}';
