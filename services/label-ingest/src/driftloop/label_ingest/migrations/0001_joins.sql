-- The join: one row a prediction id, made by whichever half comes first. Columns are ordered by width, and pages keep
-- some room, so that a label that comes later need not move its row.
CREATE TABLE joins (
    -- The prediction's half; model_name is NULL until it has come.
    predicted_at timestamptz,
    score double precision,
    -- The outcome's half: the result that holds, and since when there is one; label is NULL until it has come.
    observed_at timestamptz,
    arrived_at timestamptz,
    -- What was published last; revision 0 is nothing yet.
    labeled_at timestamptz,
    label_revision int NOT NULL DEFAULT 0,
    result_version int,
    model_version int,
    label smallint CHECK (label IN (0, 1)),
    published_label smallint CHECK (published_label IN (0, 1)),
    prediction boolean,
    -- The result's version was reported with both labels.
    contested boolean NOT NULL DEFAULT false,
    -- By bytes: everyone locks keys in this one order.
    prediction_id text COLLATE "C" PRIMARY KEY,
    model_name text,
    variant text CHECK (variant IN ('champion', 'canary')),
    result_id text,
    subject text,
    features jsonb,
    CHECK (model_name IS NULL OR num_nulls(predicted_at, score, model_version, prediction, variant, features) = 0),
    CHECK ((label_revision > 0) = (published_label IS NOT NULL AND labeled_at IS NOT NULL))
) WITH (fillfactor = 80);

-- Newest rows of a model, all of them or those with a label: labels lag by weeks, so the second cannot do with the
-- first.
CREATE INDEX joins_by_time ON joins (model_name, predicted_at DESC, prediction_id) WHERE model_name IS NOT NULL;
CREATE INDEX joins_labeled_by_time ON joins (model_name, predicted_at DESC, prediction_id) WHERE label_revision > 0;
-- Outcomes whose prediction is not there.
CREATE INDEX joins_parked ON joins (arrived_at) WHERE model_name IS NULL;
CREATE INDEX joins_contested ON joins (model_name) WHERE contested;

-- Predictions that answered nobody. A shadow may share the id of the prediction that did, so it has no join of its own.
CREATE TABLE shadows (
    predicted_at timestamptz NOT NULL,
    score double precision NOT NULL,
    model_version int NOT NULL,
    prediction boolean NOT NULL,
    prediction_id text COLLATE "C" NOT NULL,
    model_name text NOT NULL,
    subject text,
    features jsonb NOT NULL,
    PRIMARY KEY (prediction_id, model_name, model_version)
) WITH (fillfactor = 100);
CREATE INDEX shadows_by_time ON shadows (model_name, predicted_at DESC, prediction_id);
