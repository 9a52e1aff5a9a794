-- What every consuming service keeps in its own schema: where it is in the log, what it has seen, what it must publish.

CREATE TABLE offsets (
    consumer text NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    cluster_id text NOT NULL,
    topic_id text NOT NULL,
    next bigint NOT NULL CHECK (next >= 0),
    PRIMARY KEY (consumer, topic, partition)
);

-- The sequence numbers that each producer's incarnation has had counted, as intervals: exact, and small.
CREATE TABLE seen (
    consumer text NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    source text NOT NULL,
    sequences int8multirange NOT NULL,
    PRIMARY KEY (consumer, topic, partition, source)
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard int NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    event_time timestamptz NOT NULL,
    value bytea,
    traceparent text,
    partition int,
    sequence bigint
);
CREATE INDEX outbox_by_shard ON outbox (shard, id);

-- A shard's name as a producer outlives its drainers: a record that is sent again keeps its number.
CREATE TABLE outbox_shards (
    shard int PRIMARY KEY,
    source text NOT NULL
);

CREATE TABLE outbox_sequences (
    shard int NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    next bigint NOT NULL,
    PRIMARY KEY (shard, topic, partition)
);
