-- The trace in which a retraining was asked for: it goes on in the retraining and in what that publishes.
ALTER TABLE requests ADD COLUMN traceparent text;
