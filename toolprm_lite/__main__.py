"""`toolprm-lite`, which is also `python -m toolprm_lite`."""

import sys

from toolprm_lite import interrupt


def main() -> None:
    """Run the command line, and exit with its code."""
    code: int | str | None = None
    try:
        interrupt.notice()
        from toolprm_lite.cli import main as command

        command(prog_name="toolprm-lite")
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        if not interrupt.seen():
            raise
    interrupt.ignore()
    if interrupt.seen() and code != interrupt.EXIT_CODE:
        code = interrupt.EXIT_CODE
        if sys.stderr is not None:
            sys.stderr.write("stopped\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
