"""The cluster, once for all tests here: `make test-slurm` starts it, and elsewhere what needs it is skipped."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, NotHere, two_nodes

WANTED = "DELTAGEOM_TEST_SLURM"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not os.environ.get(WANTED):  # minutes of both cores, and a test of what SLURM does in time: not beside others
        pytest.skip("`make test-slurm` runs what needs SLURM")
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(two_nodes())
        except NotHere as reason:
            pytest.skip(str(reason))
        yield started
