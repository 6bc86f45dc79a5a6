"""A warm start: programs forked from one process of this host that has imported what they need.

`client` asks, `server` forks, `job` is what a fork does; `choice` says whether and where, `world` what a fork
cannot change, `imports` what is imported before, `wire` how the two speak. `fresh` and `room` make a fork
what a Python just started would be, and `forked` is what such a program may ask. Where anything is in doubt
the plain start is made.
"""
