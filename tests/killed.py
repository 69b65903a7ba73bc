"""A run of its own for test_datasets: a data set certified by two workers, of which one is killed
on the way.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

import lirpa_explain as lx
from tests.test_datasets import COUNT, SETTINGS, make_attribution


def kill_one(workers, out: Path) -> None:
    """Kill the first of some processes when two chunks are there."""
    while len(list(out.glob("0*.parquet"))) < 2:
        time.sleep(0.02)
    os.kill(workers()[0], signal.SIGKILL)
    print("killed", flush=True)


def children() -> list[int]:
    """The processes of the pool."""
    import multiprocessing

    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def main() -> None:
    """Run what the arguments say: pool, dask or none; and the folder."""
    kind, out = sys.argv[1], Path(sys.argv[2])
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(COUNT, 4, dtype=torch.float64, generator=generator)
    data = torch.cat([x] * 40), torch.cat([torch.arange(COUNT) % 3] * 40)
    call = {"attribution": make_attribution, "dataset": data, "out": out, "chunk": 4, **SETTINGS}
    if kind == "none":
        lx.certify_dataset(**call)
    elif kind == "pool":
        threading.Thread(target=kill_one, args=(children, out), daemon=True).start()
        lx.certify_dataset(executor=2, **call)
    else:
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, \
                Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
            threading.Thread(target=kill_one, args=(lambda: pids, out), daemon=True).start()
            lx.certify_dataset(executor=client, **call)


if __name__ == "__main__":
    main()
