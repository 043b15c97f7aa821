"""Runs every job once in the server that `crash_runner` forks its processes from.

So none of them pays for first-time work. Nothing else imports this module.
"""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path

from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.faults.harness import _BUILDS, ANALYTICS, JOB, NOON, Harness, local_day
from wrm_pipeline_tests.fixtures.lake import snapshot

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
with (
    tempfile.TemporaryDirectory() as folder,
    Path(os.devnull).open("w") as nowhere,
    contextlib.redirect_stderr(nowhere),
):
    os.environ["WRM_DATA_DIR"] = folder
    world = Harness(load_settings())
    for minute in range(2):
        world.put_raw(NOON + timedelta(minutes=minute), snapshot(NOON))
        world.process(local_day(NOON))
    world.run(JOB, local_day(NOON), only=_BUILDS)
    world.run(JOB, local_day(NOON))
    world.run(ANALYTICS)
    if world.failures:
        sys.exit("\n".join(world.failures))
