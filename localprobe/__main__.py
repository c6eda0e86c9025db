"""The program: everything, imports too, within reach of Ctrl-C and SIGTERM."""

import signal
import sys

_INTERRUPTED, _TERMINATED = 130, 143


def run() -> int:
    terminated = False

    def terminate(_number: int, _frame: object) -> None:
        # As Ctrl-C does: what is half done is cleaned up, what is done stays.
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, terminate)
        from localprobe.cli import main

        code = main()
    except KeyboardInterrupt:
        print("localprobe: interrupted", file=sys.stderr)
        code = _INTERRUPTED
    return _TERMINATED if terminated else code


if __name__ == "__main__":
    raise SystemExit(run())
