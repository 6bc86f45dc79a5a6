"""Read by each Python that a test starts with this folder on PYTHONPATH: the first that finds a file which
matches FT_STOP_AT, a glob, stops itself by SIGSTOP, once, and touches the file FT_STOP_SAYS before.

It looks at what the program does next after the file is there (an audit event), or as its last act.
"""

from __future__ import annotations

import atexit
import glob
import os
import signal
import sys

AT, SAYS = os.environ.get("FT_STOP_AT"), os.environ.get("FT_STOP_SAYS", "")
NOTED = {
    "open",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.utime",
    "shutil.rmtree",
    "import",
    "exec",
}
looking = [False]  # an audit event of our own look is none


def look(event: str = "open", _: object = None) -> None:
    if AT is None or looking[0] or event not in NOTED:
        return
    looking[0] = True
    if not os.path.exists(SAYS):
        if glob.glob(AT):
            with open(SAYS, "x"):
                pass
            os.kill(os.getpid(), signal.SIGSTOP)
        looking[0] = False


if AT:
    atexit.register(look)
    sys.addaudithook(look)
