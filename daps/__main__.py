"""The `daps` command, and `python -m daps`."""

import os

# Threads that spin while they wait take the cores from those they wait for, where another program is busy or a
# container has less than it sees: a training on two cores of which one was taken ran up to 30 times slower. Waiting a
# thirtieth as long before they sleep made that 3 times, and costs 6 % of the pace on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read once, when PyTorch is imported

from daps.cli import main

if __name__ == "__main__":
    main()
