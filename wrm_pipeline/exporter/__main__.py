"""`python -m wrm_pipeline.exporter`."""

import os
import sys

from wrm_pipeline.exporter.server import main

if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # An orderly exit would wait for libraries' threads that a hanging look has left; what counts is on the disk.
    os._exit(status)
