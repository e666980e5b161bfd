"""The clock of searches, read as `clock.now()`, so that a test can put another in its place."""

from __future__ import annotations

import time

now = time.perf_counter  # seconds
