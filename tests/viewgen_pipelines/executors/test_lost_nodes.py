"""Which nodes are lost: Ray says it late, their raylets at once (real nodes: chaos/test_lost_node.py)."""

import socket
import sys
from types import SimpleNamespace

import pytest

from viewgen_pipelines.executors import ray_pool


@pytest.mark.parametrize(
    ("alive", "listening", "lost"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_a_node_is_lost_when_ray_says_so_or_its_raylet_is_gone(monkeypatch, alive, listening, lost):
    with socket.create_server(("127.0.0.1", 0)) as raylet:
        entry = {
            "NodeID": "one",
            "Alive": alive,
            "NodeManagerAddress": "127.0.0.1",
            "NodeManagerPort": raylet.getsockname()[1],
        }
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: [entry]))
        if not listening:
            raylet.close()
        assert ray_pool._node_is_lost("one") is lost


def test_a_node_that_ray_does_not_know_is_lost(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=list))
    assert ray_pool._node_is_lost("one")
