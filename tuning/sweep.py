"""Searches a recipe's settings; without arguments FLEX-Seg's on the streets world.

    python tuning/sweep.py flexseg-streets --trials 16 --name first          on this machine, which needs no cluster
    ray job submit -- python tuning/sweep.py flexseg-daformer --workers 4    on the cluster
    python tuning/sweep.py flexseg-streets --help                            what is searched, and every flag

spaces.py beside this file says what is searched and why, README.md how to go about it.
"""

import sys

from spaces import spaces

from dgseg.runs.sweep.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], spaces))
