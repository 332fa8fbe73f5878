"""A Ray cluster of two nodes with a CPU each, on 127.0.0.1, as long as its standard input is open.

    python -m tests.runs.launch.two_nodes        says where: {"dashboard": "http://…", "gcs": "…"}

A line on its input, `lose` or `add`, takes the second node away or brings another one.
"""

import json
import os
import socket
import sys
from typing import Any

from dgseg.runs.launch.cluster import OBJECT_STORE, PRIVATE


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def main() -> None:
    os.environ.update(PRIVATE)
    from ray.cluster_utils import Cluster

    def node(**more: Any) -> dict[str, Any]:
        # Ray's fixed port for the agent that takes jobs may be another cluster's.
        return {"num_cpus": 1, "object_store_memory": OBJECT_STORE, "dashboard_agent_listen_port": free_port(), **more}

    port = free_port()
    head = node(include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port)
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(**node())
        print(json.dumps({"dashboard": f"http://127.0.0.1:{port}", "gcs": cluster.address}), flush=True)
        for line in sys.stdin:
            if line.strip() == "lose":
                cluster.remove_node(second, allow_graceful=False)
            elif line.strip() == "add":
                second = cluster.add_node(**node())
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
