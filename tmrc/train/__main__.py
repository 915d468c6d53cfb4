"""One process of a run: python -m tmrc.train RUN_DIR, alone or under torchrun."""

import signal

# A stop signal that comes while the imports below run waits until the handlers stand.
early = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, early)

import faulthandler  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

from tmrc.train.run import main  # noqa: E402
from tmrc.train.stop import stop_with_parent  # noqa: E402

if __name__ == "__main__":
    faulthandler.enable()  # a watchdog ends what hangs with SIGABRT: the log then says where each thread was
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop_with_parent()
    code = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a log on a full disk: Python would end with 120, which says nothing of the run
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
