"""How long notebooks take on one core: python docs/times.py [--core 0] [notebook ...], which writes paper/results/notebook_times.json."""

import argparse
import json
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from reasoning_distill.core import write_file
from reasoning_distill.experiment import hardware, revision, versions

ROOT = Path(__file__).parent.parent
TIMED = ("nbs/methods/*.ipynb", "nbs/verify/*.ipynb", "nbs/course/bachelor.ipynb", "nbs/course/master.ipynb", "nbs/course/phd.ipynb",
         "nbs/73_course.ipynb", "nbs/pitfalls.ipynb", "nbs/scale.ipynb")


def seconds_of(path: Path) -> float:
    "A notebook from a fresh kernel to its last cell; nothing of it is kept."
    start = time.perf_counter()
    NotebookClient(nbformat.read(path, as_version=4), timeout=1200, resources={"metadata": {"path": str(path.parent)}}).execute()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("notebooks", nargs="*", default=TIMED, help="patterns; the others keep the times that they have")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {asked.core})
    found, place = {}, ROOT/"paper"/"results"/"notebook_times.json"
    for path in [p for pattern in asked.notebooks for p in sorted(ROOT.glob(pattern))]:
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        found[name] = round(seconds_of(path), 1)
        print(f"{found[name]:7.1f} s  {name}", flush=True)
    kept = json.loads(place.read_text())["seconds"] if place.is_file() else {}
    record = {"revision": revision(), "versions": versions(), "hardware": {**hardware(), "cores used": 1}, "seconds": {**kept, **found}}
    write_file(place, json.dumps(record, indent=1) + "\n")
