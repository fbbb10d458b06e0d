"""A Ray executor on a cluster of this machine: what it runs and refuses, and what survives of a study when nodes die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.studies import ray_executor, ray_worker
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, WorkersLostError, outliving_workers
from jackpot_sim.studies.workers import Workers
from jackpot_sim.sweep.run import run
from tests.sweep.studies import assert_same_run, run_serially, shards, small

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray's clusters are not for it")


class Nodes:
    """A cluster whose nodes are processes of this machine; each has its own number of CPUs."""

    def __init__(self, *cpus: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            patch.setenv("RAY_AUTH_MODE", "disabled")
            from ray.cluster_utils import Cluster

            soon = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 3}
            head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
            self.nodes = [self.cluster.add_node(num_cpus=count) for count in cpus]

    def workers(self, **more: Any) -> Workers:
        return Workers(executor=ExecutorKind.RAY, ray_address=self.cluster.address, **more)

    def kill(self, place: int) -> None:
        self.cluster.remove_node(self.nodes.pop(place), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes(1, 1)
    yield made
    made.cluster.shutdown()
    assert not children(b"raylet"), "a node outlived its cluster"


def children(name: bytes) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, status = (entry / "cmdline").read_bytes(), (entry / "stat").read_text()
        except OSError:
            continue
        if name in line and status.rsplit(") ")[1].split()[1] == str(os.getpid()):
            found.append(str(entry))
    return found
