-- The newest row that judged what a request made was predicted then: after it came to nothing, the next request of the
-- same champion's drift is judged on newer ones. A number of labels does not say which of them have judged: labels of
-- older predictions come later.
ALTER TABLE requests
    DROP COLUMN labels_judged,
    DROP COLUMN labels_before_next,
    ADD COLUMN judged_until timestamptz;
-- What judged until now was predicted before its training, and in a roll-out before that ended.
UPDATE requests r SET judged_until = CASE state WHEN 'rolled-back' THEN closed_at ELSE (
    SELECT max(at) FROM request_changes c WHERE c.request_id = r.id AND c.state = 'training') END
WHERE tries > 0;
-- When a compared request was predicted, or an instant after that: then it was counted.
ALTER TABLE rollout_labels ADD COLUMN predicted_at timestamptz NOT NULL DEFAULT now();
