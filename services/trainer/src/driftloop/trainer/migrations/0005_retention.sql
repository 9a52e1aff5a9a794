-- When it was found that nobody needs a version's files any more, from when on it is not served again, and when they
-- were deleted. Its card stays.
ALTER TABLE versions
    ADD COLUMN files_released_at timestamptz,
    ADD COLUMN files_deleted_at timestamptz,
    ADD CHECK (files_deleted_at IS NULL OR files_released_at IS NOT NULL);
CREATE INDEX versions_released ON versions (files_released_at)
    WHERE files_released_at IS NOT NULL AND files_deleted_at IS NULL;
