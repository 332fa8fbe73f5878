"""python -m dgseg <verb>: where dgseg is not installed, and under torchrun."""

import sys

from dgseg.cli import main

sys.exit(main())
