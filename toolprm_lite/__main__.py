"""`python -m toolprm_lite` is the command line."""

from toolprm_lite.cli import main

main()
