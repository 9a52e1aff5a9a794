-- What other versions said of the same features comes with the prediction that answered, and is part of its row. The
-- table of predictions that answered nobody stayed empty: no predictor has sent one.
DROP TABLE shadows;

ALTER TABLE joins
    -- NULL where no other version was asked.
    ADD COLUMN shadows jsonb CHECK (jsonb_array_length(shadows) > 0),
    -- Until when the client may ask again under this id; NULL where it may not.
    ADD COLUMN repeatable_until timestamptz,
    ADD CHECK (model_name IS NOT NULL OR num_nonnulls(shadows, repeatable_until) = 0);

CREATE INDEX joins_with_shadows_by_time ON joins (model_name, predicted_at DESC, prediction_id)
    WHERE shadows IS NOT NULL;
