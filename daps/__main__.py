"""The `daps` command, and `python -m daps`."""

import os

# Threads that spin while they wait take the cores from those they wait for, where another program is busy or a
# container has less than it sees: a training on two cores of which one is taken ran 30 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when PyTorch is imported

from daps.cli import main

if __name__ == "__main__":
    main()
