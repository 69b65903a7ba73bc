"""Train nets for robust explanations in every way there is, and certify what they explain.

    python -m examples.benchmarks.robust_explanations --data DIR --out OUT [--jobs 2]
    python -m examples.benchmarks.robust_explanations --quick --out OUT

Run it in the root of the repository. It writes a file for each net (OUT/runs), results.csv,
RESULTS.md and a curve for each data set; with --quick into OUT/quick. Stopped, it goes on where it
was; with more --seeds or --methods it does what is missing. Without --data the data sets are
downloaded; --quick then takes what scikit-learn ships.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from . import figures, tables
from .run import Run, collect, perform_all
from .settings import BASELINES, DEFAULT, QUICK, SETUPS, trials

QUICK_WITH_DATA = ("adult", "mnist_fc")


def main(argv: Sequence[str] | None = None) -> None:
    """Do the runs that are missing, and write the tables and figures of all."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_sets", nargs="*", metavar="DATA_SET",
                        help=f"of {', '.join(SETUPS)}; default: {', '.join(DEFAULT)}")
    parser.add_argument("--data", type=Path, help="folder of the data; default: download")
    parser.add_argument("--out", type=Path, default=Path("robust_explanations"))
    parser.add_argument("--methods", nargs="+", choices=[*BASELINES, "certified"],
                        default=[*BASELINES, "certified"])
    parser.add_argument("--seeds", type=int, default=3,
                        help="how many; the outer settings of other methods have one")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the runs")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each process")
    parser.add_argument("--quick", action="store_true",
                        help="small data, few epochs, one setting and seed: a trial")
    args = parser.parse_args(argv)
    unknown = set(args.data_sets) - set(SETUPS) - set(QUICK)
    if unknown:
        parser.error(f"unknown data set {', '.join(sorted(unknown))}; there are "
                     f"{', '.join(SETUPS)}")

    default = DEFAULT if not args.quick else QUICK_WITH_DATA if args.data else tuple(QUICK)
    out = args.out / "quick" if args.quick else args.out
    runs = [Run(data_set, label, recipe, seed, args.data, out,
                short=args.quick and data_set in SETUPS) for data_set in args.data_sets or default
            for label, recipe, seed in trials(data_set, args.seeds, args.quick)
            if label in args.methods]
    try:
        perform_all(runs, args.jobs, args.threads)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
    results = collect(out)
    if results:
        tables.write(results, out,
                     shlex.join(["python", "-m", __package__ or "", *(argv or sys.argv[1:])]))
        figures.draw(results, out)
        print(f"{len(results)} nets: {out / 'RESULTS.md'}, {out / 'results.csv'}")


if __name__ == "__main__":
    main()
