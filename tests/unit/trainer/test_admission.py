"""Who may call the trainer."""

import pytest

from driftloop.trainer.admission import needed


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/models", "rows"),
        ("HEAD", "/v1/requests", "rows"),
        ("POST", "/v1/retrain", "admin"),
        ("POST", "/v1/promote", "admin"),
        ("POST", "/v1/rollback", "admin"),
        ("DELETE", "/v1/models", "admin"),
    ],
)
def test_reading_needs_rows_and_ordering_admin(method: str, path: str, scope: str) -> None:
    assert needed(method, path) == scope
