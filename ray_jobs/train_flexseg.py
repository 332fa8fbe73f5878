"""`dgseg train --on ray` as a script that a cluster takes; without arguments FLEX-Seg on the streets world.

    python ray_jobs/train_flexseg.py --workers 2                     on this machine, which needs no cluster
    ray job submit -- python ray_jobs/train_flexseg.py daformer --with flexseg --workers 8 --data.batch_size 16
    python ray_jobs/train_flexseg.py daformer --with flexseg --help         every field of the recipe

README.md beside this file says how the package and the runs' folder get to a cluster of many machines.
"""

import sys

from dgseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:], "--on", "ray"]))
