"""Benchmark: certificates of a whole data set by this process, by processes, and by dask; and runs
that are killed.

    python examples/benchmarks/datasets.py DATA [--images 200] [--digits 5000] [--chunk 25] [--eps
    1]
        [--method CROWN] [--digits-method IBP] [--ways here "2 processes" ...]

The gradient of the labelled class's logit of kw_mnist (Captum's Saliency with abs=False) is
certified for the first MNIST test images over linf balls of radius --eps/255 by
`lirpa_explain.certify_dataset`. Each line is a process of its own: --images images by this process
("here"), one and two processes ("1 process", ...), dask with two workers ("dask"), and by two
processes and dask's two workers of which one is killed after a third of the images.

"s, first" is until the first file is there: processes that start, import, and trace the model.
"images/s" is of all that came after. "CPU ms/image" is of the processor, workers included, over all
images, start included: the figure to go by where others use the machine. MiB are the peak of the
process that starts the run and of the largest worker (Linux).

Then --digits images are certified by two processes, in a run that is killed with SIGKILL, workers
and all, after a third and again after two thirds of the images, and given a third time. Read back,
a sample of the bounds is compared with `certify`'s own.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from captum.attr import Saliency

import lirpa_explain as lx

WAYS = ("here", "1 process", "2 processes", "dask", "2 processes, one killed", "dask, one killed")
TICK = 0.02


def attribution(data: Path) -> Saliency:
    """What is certified."""
    return Saliency(common.load_net(data, "kw_mnist"))


def workers() -> list[int]:
    """The processes below this one that do Python's work."""
    found, parents = [], {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    for pid in parents:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and pid != above and memory(pid) > 100:
            found.append(pid)
    return found


def memory(pid: int) -> float:
    """The most memory a process has held, MiB; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


class Watch(threading.Thread):
    """Notes when the first file is there and how large workers grow; kills a worker when enough is
    there.
    """

    def __init__(self, out: Path, kill_at: int | None) -> None:
        super().__init__(daemon=True)
        self.out, self.kill_at, self.over = out, kill_at, threading.Event()
        self.started, self.first, self.largest = time.perf_counter(), 0.0, 0.0

    def run(self) -> None:
        """Until the run is over."""
        while not self.over.wait(TICK):
            files = len(list(self.out.glob("0*.parquet")))
            if files and not self.first:
                self.first = time.perf_counter() - self.started
            if files:
                pids = workers()
                self.largest = max([self.largest, *map(memory, pids)])
                if self.kill_at is not None and files >= self.kill_at and len(pids) > 1:
                    os.kill(max(pids, key=memory), signal.SIGKILL)
                    self.kill_at = None


def certify(given: Any, count: int, executor: Any, out: Path, method: str) -> lx.DatasetRun:
    """Certify the first images."""
    images, labels = common.load_mnist(given.data, count)
    return lx.certify_dataset(attribution(given.data), (images, labels), out=out, executor=executor,
                              chunk=given.chunk,
                              eps=given.eps / 255, method=method, abs=False, progress=False)


def measure(given: Any, way: str) -> dict[str, Any]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        kill_at = given.images // given.chunk // 3 if "killed" in way else None
        watch = Watch(Path(folder), kill_at)
        watch.start()
        if way.startswith("dask"):
            from distributed import Client, LocalCluster

            with LocalCluster(n_workers=2, threads_per_worker=1,
                              dashboard_address=None) as cluster, Client(cluster) as client:
                run = certify(given, given.images, client, Path(folder), given.method)
                over = time.perf_counter() - watch.started
        else:
            executor = None if way == "here" else int(way[0])
            run = certify(given, given.images, executor, Path(folder), given.method)
            over = time.perf_counter() - watch.started
        watch.over.set()
        watch.join()
        rows = len(lx.read_results(folder))
    used = sum(sum(resource.getrusage(who)[:2])
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"first": watch.first, "rate": (given.images - given.chunk) / (over - watch.first),
            "seconds": over, "cpu": 1e3 * used / given.images, "mine": common.peak(),
            "largest": watch.largest, "rows": rows, "examples": run.examples}


def killed_twice(given: Any) -> None:
    """The run of all digits, in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for stop in (given.digits // 3, 2 * given.digits // 3, None):
            before = len(list(Path(folder).glob("0*.parquet"))) * given.chunk
            started = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-W", "ignore", __file__, given.data,
                                        "--whole", folder, *options(given)], start_new_session=True)
            while process.poll() is None:
                time.sleep(TICK)
                if (stop is not None
                        and len(list(Path(folder).glob("0*.parquet"))) * given.chunk >= stop):
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            there = len(lx.read_results(folder))
            lines.append(["killed" if stop is not None else "whole", str(before), str(there),
                          f"{time.perf_counter() - started:.1f}"])
        table = lx.read_results(folder)
        sizes = sum(file.stat().st_size for file in Path(folder).glob("0*.parquet"))
    common.print_table(["run", "images before", "after", "s"], lines)
    images, labels = common.load_mnist(given.data, given.digits)
    chosen = torch.arange(given.digits).chunk(7)
    rows = torch.cat([part[:given.chunk // 7 + 1] for part in chosen])
    bounds = lx.certify(attribution(given.data), images[rows], eps=given.eps / 255, abs=False,
                        method=given.digits_method, target=labels[rows])
    stored = torch.tensor(np.stack(table["lower"].loc[rows.tolist()].to_list()))
    difference = float((stored - bounds.lower.flatten(1)).abs().max() / bounds.width.max())
    print(f"\n{len(table)} rows, {int(table['error'].notna().sum())} errors, "
          f"{sizes / len(table) / 1024:.1f} KiB an image on disk; lower bounds of {len(rows)} "
          f"images differ from certify's by at most {difference:.1e} of the largest width (batches "
          "of another size round otherwise)")


def options(given: Any) -> list[str]:
    """The settings for another process."""
    return [word for name in ("images", "digits", "chunk", "eps", "method", "digits_method")
            for word in (f"--{name.replace('_', '-')}", str(getattr(given, name)))]


def main() -> None:
    """Measure what the arguments say."""
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--digits", type=int, default=5000)
    parser.add_argument("--chunk", type=int, default=25)
    parser.add_argument("--eps", type=float, default=1)
    parser.add_argument("--method", default="CROWN")
    parser.add_argument("--digits-method", default="IBP")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, metavar="WAY")
    parser.add_argument("--whole", type=Path,
                        help="folder of the run of all digits, which is killed")
    given = parser.parse_args()
    if given.one is not None:
        torch.save(measure(given, given.ways[0]), given.one)
        return
    if given.whole is not None:
        certify(given, given.digits, 2, given.whole, given.digits_method)
        return
    print(common.versions(), end="\n\n")
    lines = []
    for way in given.ways:
        result = common.in_process(__file__, [given.data, "--ways", way, *options(given)])
        common.progress(f"{way}: {result}")
        lines.append([way, f"{result['first']:.1f}", f"{result['seconds']:.1f}",
                      f"{result['rate']:.1f}",
                      f"{result['cpu']:.0f}", f"{result['mine']:.0f}", f"{result['largest']:.0f}",
                      str(result["rows"])])
    common.print_table(["who", "s, first", "s, all", "images/s", "CPU ms/image", "MiB, starts",
                        "MiB, worker", "rows"], lines)
    print()
    killed_twice(given)


if __name__ == "__main__":
    main()
