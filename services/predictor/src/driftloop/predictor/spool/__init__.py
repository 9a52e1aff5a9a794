"""A worker's spool: inferences that the broker has not confirmed, on a durable volume until they are in the log."""

from driftloop.predictor.spool.errors import SpoolFailed, SpoolInUse
from driftloop.predictor.spool.folder import Spool
from driftloop.predictor.spool.records import SpooledRecord
from driftloop.predictor.spool.volume import Position, leftovers

__all__ = ["Position", "Spool", "SpoolFailed", "SpoolInUse", "SpooledRecord", "leftovers"]
