"""One process of a run: python -m tmrc.train RUN_DIR, alone or under torchrun."""

import signal

# A stop signal that comes while the imports below run waits until the handlers stand.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT))

import os  # noqa: E402
import sys  # noqa: E402

from tmrc.train.run import main  # noqa: E402
from tmrc.train.stop import stop_with_parent  # noqa: E402

if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop_with_parent()
    sys.exit(main(sys.argv[1:]))
