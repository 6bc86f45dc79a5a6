"""job.py FOLDER SLOTS COUNT: a short job that checks by itself that nobody else is on its slots."""

import sys
import time
from pathlib import Path

from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask, Leases

folder, slots, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
inventory = Inventory("cpu", tuple(Device(str(n), None, "CPU slot") for n in range(slots)))
ask = Ask("acme.job", "acme", count, 0, "a test", "job")
with Leases(folder / "locks", inventory, poll_seconds=0.02).acquire(ask) as lease:
    assert len(set(lease.devices)) == count
    for device in lease.devices:
        (folder / f"in-use-{device}").touch(exist_ok=False)
    time.sleep(0.1)
    for device in lease.devices:
        (folder / f"in-use-{device}").unlink()
