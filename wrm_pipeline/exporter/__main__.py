"""`python -m wrm_pipeline.exporter`."""

import os
import sys

from wrm_pipeline.exporter.server import main

if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # A normal exit would wait for library threads left by a hanging read; everything that counts is on disk.
    os._exit(status)
