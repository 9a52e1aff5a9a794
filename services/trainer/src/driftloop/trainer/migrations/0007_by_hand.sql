-- Somebody asked for it, too, whatever asked first: it rests no more, and is not taken back with its alarm.
ALTER TABLE requests ADD COLUMN by_hand boolean NOT NULL DEFAULT false;
UPDATE requests SET by_hand = true WHERE cause = 'manual';
