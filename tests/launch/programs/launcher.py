"""launcher.py RUN_DIR GRACE [LOCKS]: what a Dagster step does, to be killed from outside."""

import sys
from contextlib import nullcontext
from pathlib import Path

from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.local import Patience, run_program

run_dir, grace, *locks = sys.argv[1:]
inventory = Inventory("cpu", tuple(Device(str(n), None, "CPU slot") for n in range(3)))
ask = Ask("acme.support", "acme", 3, 0, "a test", "launcher")
with Leases(Path(locks[0]), inventory).acquire(ask) if locks else nullcontext() as lease:
    sys.exit(run_program("program", Path(run_dir), lease, patience=Patience(float(grace), 0.5)))
