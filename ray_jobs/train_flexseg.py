"""Trains a recipe on Ray; without arguments FLEX-Seg on the streets world.

    python ray_jobs/train_flexseg.py --workers 2                     on this machine, which needs no cluster
    ray job submit -- python ray_jobs/train_flexseg.py flexseg-daformer --workers 8 --data.batch_size 16
    python ray_jobs/train_flexseg.py flexseg-daformer --help         every field of the recipe

README.md beside this file says how the package and the runs' folder get to a cluster of many machines.
"""

import sys

from dgseg.runs.launch.main import on_ray

if __name__ == "__main__":
    sys.exit(on_ray(sys.argv[1:], prog="train_flexseg.py"))
