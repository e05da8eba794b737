"""A Ray cluster of several raylets on this machine, in a process of its own; any of them can be killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
small = 100 * 2**20
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": small})
more = [cluster.add_node(num_cpus=1, object_store_memory=small) for _ in range(int(sys.argv[1]) - 1)]
nodes = [cluster.head_node, *more]
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
gcs = cluster.head_node.all_processes["gcs_server"][0].process.pid
print(json.dumps({"address": cluster.address, "raylets": raylets, "gcs": gcs}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


class Nodes:
    """So many nodes of one CPU; the first is the head. They have what trials import: `standin`."""

    def __init__(self, home: Path, count: int = 2) -> None:
        env = os.environ | {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(count)], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.address, self.raylets, self.gcs = str(told["address"]), list(told["raylets"]), int(told["gcs"])

    def kill_node(self, number: int) -> None:
        """Kill -9 a node's raylet and all it started: left alone, its workers would end the trials they are at."""
        raylet = psutil.Process(self.raylets[number])
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill_head(self) -> None:
        """Kill -9 the cluster's brain and every node that lives."""
        os.kill(self.gcs, signal.SIGKILL)
        for number, pid in enumerate(self.raylets):
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                self.kill_node(number)

    def stop(self) -> None:
        """End what is left of it."""
        self.process.communicate("")
