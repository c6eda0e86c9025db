"""The program: everything, imports too, within reach of Ctrl-C and SIGTERM."""

import os
import re
import signal
import sys

_INTERRUPTED, _TERMINATED = 130, 143


def run() -> int:
    _open_closed_streams()
    _forget_odd_settings()
    terminated = False

    def terminate(_number: int, _frame: object) -> None:
        # As Ctrl-C does: what is half done is cleaned up, what is done stays.
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, terminate)
        for name in ("SIGINFO", "SIGUSR1"):
            # Which ask where long work is; where there is nothing to say, they must not kill.
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        from localprobe.cli.app import main

        code = main()
    except KeyboardInterrupt:
        print("localprobe: interrupted", file=sys.stderr)
        code = _INTERRUPTED
    return _TERMINATED if terminated else code


def _open_closed_streams() -> None:
    """In place of streams that were closed (>&-): or the next file opened would get their number,
    and what is said would be written into it."""
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _forget_odd_settings() -> None:
    """Of the environment, at which others would stumble: rich, tqdm, and matplotlib, which is only
    to write files here. What they would say of them is not ours to explain.
    """
    for name in list(os.environ):
        size = name in ("COLUMNS", "LINES") and not re.fullmatch("[0-9]{1,6}", os.environ[name])
        if size or name == "MPLBACKEND" or name.startswith("TQDM_"):
            del os.environ[name]


if __name__ == "__main__":
    raise SystemExit(run())
