"""`dgseg sweep` under its older name; without arguments it searches FLEX-Seg's settings on the streets world.

python tuning/sweep.py flexseg-streets --trials 16 --name first          on this machine, which needs no cluster
ray job submit -- python tuning/sweep.py daformer --with flexseg    on the cluster
python tuning/sweep.py flexseg-streets --help                            what is searched, and every flag
"""

import sys

from dgseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
