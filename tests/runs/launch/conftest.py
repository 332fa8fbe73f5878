"""Ray reads these when it is imported, whichever test is the first to do so."""

from dgseg.runs.launch.cluster import make_private

make_private()
