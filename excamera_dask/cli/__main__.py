"""``python -m excamera_dask.cli``: the command where its script is not on PATH."""

import sys

from excamera_dask.cli import main

sys.exit(main())
