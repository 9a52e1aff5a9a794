-- Numbers that were given, and of which no version was registered (yet): whoever dies in between may have left files.
CREATE TABLE reserved_versions (
    model_name text NOT NULL REFERENCES models,
    version int NOT NULL,
    reserved_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, version)
);
