"""The program: everything, imports too, within reach of Ctrl-C."""

import sys


def run() -> int:
    try:
        from localprobe.cli import main

        return main()
    except KeyboardInterrupt:
        print("localprobe: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(run())
