"""Says how a program of this project ends: the same code means the same in each of them."""

DONE = 0
FAILED = 1  # nobody foresaw it
BAD_INPUT = 2  # a user's mistake: never retried
TRANSIENT = 75  # what a retry can mend
PREEMPTED = TRANSIENT  # SIGTERM: goes on from what was kept
CANCELLED = 130  # SIGINT
