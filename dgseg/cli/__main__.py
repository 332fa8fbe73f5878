"""python -m dgseg.cli <verb>: where dgseg is not installed."""

import sys

from dgseg.cli import main

sys.exit(main())
