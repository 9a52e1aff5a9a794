-- Labels are amended and taken back between a decision and what follows from it. Then it is made once more: from what,
-- and what it said.
ALTER TABLE evidence
    ADD COLUMN relabelled bytea,
    ADD COLUMN relabelled_decision jsonb,
    ADD COLUMN relabelled_at timestamptz,
    ADD CHECK (relabelled IS NULL OR data IS NOT NULL AND relabelled_decision IS NOT NULL),
    ADD CHECK ((relabelled_decision IS NULL) = (relabelled_at IS NULL));
