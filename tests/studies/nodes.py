"""A Ray cluster of this machine for tests, whose nodes can be killed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.studies.executors import ExecutorKind
from jackpot_sim.studies.workers import Workers

NEEDED = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray"),
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc"),
]
"""The marks of a module with tests on a cluster."""

SOON = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 3}
"""Ray's own settings, so that a node that was killed is taken for dead within seconds."""


class Nodes:
    """A cluster whose nodes are processes of this machine, of one CPU each; the head runs no task."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(count)]

    def workers(self, **more: Any) -> Workers:
        return Workers(executor=ExecutorKind.RAY, ray_address=self.cluster.address, **more)

    def options(self) -> list[str]:
        return ["--executor", "ray", "--ray-address", self.cluster.address]

    def kill_one(self) -> None:
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def be(self, count: int) -> None:
        while len(self.nodes) < count:
            self.nodes.append(self.cluster.add_node(num_cpus=1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = Nodes(2)
        yield made
        made.cluster.shutdown()
    deadline = time.monotonic() + 10
    while (left := rays_children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "a process of Ray outlived its cluster"


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """Two nodes, whatever the tests before have killed."""
    cluster.be(2)
    return cluster


def rays_children(name: bytes = b"ray", parents: Collection[int] = (os.getpid(),)) -> list[str]:
    """The processes with this name that these have started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line, parent = (entry / "cmdline").read_bytes(), (entry / "stat").read_text().rsplit(") ")[1].split()[1]
            if int(parent) in parents and name in line:
                found.append(line.decode())
    return found
