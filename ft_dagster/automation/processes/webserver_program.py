"""Runs Dagster's webserver, which ends with the command that started it: when stdin (a pipe) reaches its end.

python -P -m ft_dagster.automation.processes.webserver_program OPTIONS
"""

import os
import signal
import sys
import threading

from dagster_webserver.cli import cli as webserver

END_SECONDS = 15.0  # for what clients still ask


def end_with_command() -> None:
    while os.read(0, 4096):
        pass
    timer = threading.Timer(END_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job leaves it ignored
    threading.Thread(target=end_with_command, name="command", daemon=True).start()
    webserver()


if __name__ == "__main__":
    sys.argv[0] = "dagster-webserver"
    main()
