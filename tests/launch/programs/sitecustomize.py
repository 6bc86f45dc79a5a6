"""Lets a node's program in a pod of the stand-in run `pod`, which no order of a real one may name."""

import sys

if "ft_dagster.launch.remote.node" in sys.orig_argv:
    from ft_dagster.launch.remote import order

    order.PROGRAMS = (*order.PROGRAMS, "pod")
