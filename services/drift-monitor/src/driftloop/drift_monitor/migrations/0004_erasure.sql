-- Patients who were erased, by pseudonym: a record of theirs that is read after the erasure, out of a topic that still
-- holds it, must not be parked again.
CREATE TABLE erased_subjects (
    subject text COLLATE "C" PRIMARY KEY,
    erased_at timestamptz NOT NULL
);
CREATE INDEX erased_subjects_by_age ON erased_subjects (erased_at);

-- Where the records were read that were erased while they waited for a profile. They were never counted, and a replay
-- must not count them either; nothing of their content is here.
CREATE TABLE erased_records (
    topic text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    erased_at timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
);
CREATE INDEX erased_records_by_age ON erased_records (erased_at);
