"""holder.py FOLDER SLOTS COUNT PRIORITY NAME [rank]: take a lease, say so (with the rank's pid), and stay.

HOLDER_QUOTA is the table of quotas as JSON, HOLDER_TENANT the tenant (acme).

The rank is started by an intermediate process that survives the holder, as torchrun does.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask, Leases

folder, slots, count, priority, name, *rank = sys.argv[1:]
inventory = Inventory("cpu", tuple(Device(str(n), None, "CPU slot") for n in range(int(slots))))
tenant, quota = os.environ.get("HOLDER_TENANT", "acme"), json.loads(os.environ.get("HOLDER_QUOTA", "{}"))
ask = Ask(f"{tenant}.{name}", tenant, int(count), int(priority), "a test", name)
with Leases(Path(folder), inventory, quota=quota, poll_seconds=0.02).acquire(ask) as lease:
    pid = 0
    if rank:
        agent = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("agent.py")],
            env={**os.environ, **lease.environment()},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
    print(name, pid, flush=True)
    time.sleep(120)
