"""One Ray for all tests of a process that do not test how Ray starts or dies: starting it takes longer than they do."""

from collections.abc import Iterator

import pytest

from dgseg.runs.launch.cluster import cluster, make_private
from dgseg.runs.launch.config import LaunchConfig

make_private()  # Ray reads it when it is imported, whichever test is the first to do so


@pytest.fixture(scope="session")
def own_ray() -> Iterator[None]:
    """Two CPUs."""
    with cluster(LaunchConfig(workers=2, cpus_per_worker=1)):
        yield
