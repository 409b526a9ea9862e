"""Trackers: services that a run's numbers and pictures are sent to besides its own files; one file each."""

from denseteacher.training.trackers.base import Ending, RunFacts, Tracker
from denseteacher.training.trackers.trackers import Trackers, require_clients

__all__ = ["Ending", "RunFacts", "Tracker", "Trackers", "require_clients"]
