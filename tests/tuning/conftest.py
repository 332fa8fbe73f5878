"""Ray reads these when it is imported, whichever test is the first to do so."""

import pytest

pytest.importorskip("optuna")

from dgseg.launch.cluster import make_private

make_private()
