"""A process that uses a leased device: takes its share of the lease, says so, and stays."""

import time

from ft_dagster.launch.leases import hold_as_rank

hold_as_rank()
print("holding", flush=True)
time.sleep(120)
