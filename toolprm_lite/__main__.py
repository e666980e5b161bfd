"""`toolprm-lite`, which is also `python -m toolprm_lite`."""

from __future__ import annotations

import sys

from toolprm_lite import interrupt


def main() -> None:
    """Run the command line, and exit with its code."""
    code: object = None
    with interrupt.noticed():
        try:
            from toolprm_lite.cli import main as command

            command(prog_name="toolprm-lite")
        except SystemExit as exit:
            code = exit.code
        except BaseException:
            if not interrupt.seen():
                raise
        if interrupt.seen() and code != interrupt.EXIT_CODE:
            code = interrupt.EXIT_CODE
            if sys.stderr is not None:
                sys.stderr.write("stopped\n")
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
