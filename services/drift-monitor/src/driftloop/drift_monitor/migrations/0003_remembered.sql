-- Predictions whose clients may ask again: until then each of their ids counts once, whichever predictor answers. All
-- other predictions have ids of their own and leave nothing here.
CREATE TABLE remembered (
    model_name text COLLATE "C" NOT NULL,
    prediction_id text COLLATE "C" NOT NULL,
    until timestamptz NOT NULL,
    -- What `until` was before the last batch that brought the id; NULL where no other had.
    known_until timestamptz,
    PRIMARY KEY (model_name, prediction_id)
);
CREATE INDEX remembered_by_age ON remembered (until);
