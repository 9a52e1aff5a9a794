-- Predictions get a table of their own, by month, so that old ones go by dropping a month. Results get one, too: a
-- prediction can have several, and a result can wait for an order or a patient whose predictions are not known yet.

CREATE TABLE predictions (
    predicted_at timestamptz NOT NULL,
    score double precision NOT NULL,
    model_version int NOT NULL,
    prediction boolean NOT NULL,
    prediction_id text COLLATE "C" NOT NULL,
    model_name text NOT NULL,
    variant text NOT NULL CHECK (variant IN ('champion', 'canary')),
    subject text,
    features jsonb NOT NULL,
    -- What other versions said of the same features; NULL where none was asked.
    shadows jsonb CHECK (jsonb_array_length(shadows) > 0),
    -- A month's table cannot promise that an id is unique: `joins` does.
    PRIMARY KEY (model_name, predicted_at, prediction_id)
) PARTITION BY RANGE (predicted_at);
-- What is older or newer than the months that are kept ready.
CREATE TABLE predictions_other PARTITION OF predictions DEFAULT;
CREATE INDEX predictions_with_shadows ON predictions (model_name, predicted_at, prediction_id)
    WHERE shadows IS NOT NULL;

INSERT INTO predictions SELECT predicted_at, score, model_version, prediction, prediction_id, model_name, variant,
    subject, features, shadows FROM joins WHERE model_name IS NOT NULL;

-- One laboratory result in its newest version. `result` says which it is: its source and id, or where one of these is
-- missing also what it names. `key` says what it names: p and a prediction's id, o and an order's pseudonym, s and a
-- patient's. Whoever looks for the results of a key has locked it.
CREATE TABLE results (
    reported_at timestamptz,
    observed_at timestamptz,
    arrived_at timestamptz NOT NULL,
    value double precision,
    version int NOT NULL,
    label smallint CHECK (label IN (0, 1)),
    -- Its version was reported with two contents.
    contested boolean NOT NULL,
    -- It belongs to a prediction that is there. Else it is parked.
    matched boolean NOT NULL,
    result text COLLATE "C" PRIMARY KEY,
    key text COLLATE "C" NOT NULL,
    -- The patient of a result that names an order, too: where no prediction was made for the order, it is looked for.
    subject text COLLATE "C",
    status text NOT NULL,
    model_name text,
    analyte text,
    unit text,
    comparator text
) WITH (fillfactor = 90);
CREATE INDEX results_by_key ON results (key);
CREATE INDEX results_by_subject ON results (subject) WHERE subject IS NOT NULL;
CREATE INDEX results_parked ON results (arrived_at) WHERE NOT matched;

INSERT INTO results (observed_at, arrived_at, version, label, contested, matched, key, result, status)
SELECT observed_at, coalesce(arrived_at, now()), result_version, label, contested, model_name IS NOT NULL,
    'p' || prediction_id, 'p' || prediction_id || chr(31) || chr(31) || coalesce(result_id, ''), 'final' FROM joins
    WHERE label IS NOT NULL;

-- Which predictions a result that names an order or a patient belongs to. It changes as predictions come.
CREATE TABLE matches (
    prediction_id text COLLATE "C" NOT NULL,
    result text COLLATE "C" NOT NULL,
    PRIMARY KEY (prediction_id, result)
);
CREATE INDEX matches_by_result ON matches (result);

-- One row an order and one a patient, o and s as above: predictions and results that come at the same moment meet at
-- its lock.
CREATE TABLE keys (
    key text COLLATE "C" PRIMARY KEY,
    -- Nobody need look for results where there never were any; they may be gone by now.
    results bigint NOT NULL,
    -- What was predicted of this patient until then was erased, and does not come back.
    erased_at timestamptz
) WITH (fillfactor = 70);

-- What the results of a prediction make of it; there is a row once it has had one. It has the order of `predictions`.
CREATE TABLE labels (
    predicted_at timestamptz NOT NULL,
    -- When the label that was published last came, or went.
    labeled_at timestamptz,
    -- How often it has changed; 0 is never.
    revision int NOT NULL,
    -- How often somebody has looked at all results and written what they make: who did so at the same moment sees it.
    looks int NOT NULL,
    -- Which policy made it, NULL where the laboratory said it.
    policy_version int,
    -- NULL where there is none (yet), or it was retracted.
    label smallint CHECK (label IN (0, 1)),
    -- Results that count disagree.
    contested boolean NOT NULL,
    prediction_id text COLLATE "C" NOT NULL,
    model_name text NOT NULL,
    PRIMARY KEY (model_name, predicted_at, prediction_id),
    CHECK (revision > 0 OR num_nonnulls(label, labeled_at) = 0)
) WITH (fillfactor = 90);
CREATE INDEX labels_contested ON labels (model_name) WHERE contested;

INSERT INTO labels SELECT predicted_at, labeled_at, label_revision, 1, NULL, published_label, contested, prediction_id,
    model_name FROM joins WHERE model_name IS NOT NULL AND label IS NOT NULL;

-- A join row is written twice at the most: by a result that comes first, and by the prediction. What changes is elsewhere.
DROP INDEX joins_by_time, joins_labeled_by_time, joins_parked, joins_contested, joins_with_shadows_by_time;
ALTER TABLE joins
    DROP CONSTRAINT joins_check1,
    DROP COLUMN score, DROP COLUMN prediction, DROP COLUMN variant, DROP COLUMN features, DROP COLUMN shadows,
    DROP COLUMN observed_at, DROP COLUMN result_version, DROP COLUMN result_id, DROP COLUMN arrived_at,
    DROP COLUMN labeled_at, DROP COLUMN label_revision, DROP COLUMN label, DROP COLUMN published_label,
    DROP COLUMN contested,
    ADD COLUMN order_key text COLLATE "C",
    ADD CHECK (model_name IS NULL OR num_nulls(predicted_at, model_version) = 0),
    SET (fillfactor = 100);
-- Rows that a result has made, and no prediction taken yet.
CREATE INDEX joins_without_prediction ON joins (prediction_id) WHERE model_name IS NULL;
CREATE INDEX joins_by_order ON joins (order_key) WHERE order_key IS NOT NULL;
CREATE INDEX joins_by_subject ON joins (subject, predicted_at) WHERE subject IS NOT NULL;

-- Results whose prediction did not come in time: no label is made of them, and none is thrown away.
CREATE TABLE expired_results (
    expired_at timestamptz NOT NULL,
    LIKE results
);
CREATE INDEX expired_results_by_result ON expired_results (result);
CREATE INDEX expired_results_by_time ON expired_results (expired_at);
CREATE INDEX expired_results_by_subject ON expired_results (subject) WHERE subject IS NOT NULL;
CREATE INDEX expired_results_by_key ON expired_results (key);

-- Who read or erased which rows, and when. Only ever added to.
CREATE TABLE access_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    caller text NOT NULL,
    action text NOT NULL,
    parameters jsonb NOT NULL
);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the access log is only ever added to';
END $$;
CREATE TRIGGER access_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON access_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The service may not change its tables; these two make and drop its months for it, and nothing else. They run with the
-- rights of who migrates: so no table of the caller's own may stand before those of this schema. They wait for readers
-- but a moment, for everybody else waits behind them: the next round tries again.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);
CREATE FUNCTION keep_month(month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '200ms' AS $$
DECLARE
    first timestamptz := date_trunc('month', month::timestamp) AT TIME ZONE 'UTC';
    after timestamptz := (date_trunc('month', month::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
    name text := 'predictions_' || to_char(month, 'YYYY_MM');
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE;
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE predictions INCLUDING ALL)', name);
    EXECUTE format('WITH moved AS (DELETE FROM predictions_other WHERE predicted_at >= %L AND predicted_at < %L '
        'RETURNING *) INSERT INTO %I SELECT * FROM moved', first, after, name);
    EXECUTE format('ALTER TABLE predictions ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first, after);
    RETURN true;
END $$;
CREATE FUNCTION drop_month(month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '200ms' AS $$
DECLARE
    after timestamptz := (date_trunc('month', month::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
    name text := 'predictions_' || to_char(month, 'YYYY_MM');
BEGIN
    -- No setting of the service keeps less.
    IF after > now() - interval '59 days' THEN
        RAISE EXCEPTION 'month % is not old enough to be dropped', month;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = 'predictions'::regclass
        AND inhrelid = to_regclass(name)) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', name);
    RETURN true;
END $$;
SELECT set_config('search_path', quote_ident(current_schema()), true);
REVOKE ALL ON FUNCTION keep_month(date), drop_month(date), refuse_change() FROM PUBLIC;
