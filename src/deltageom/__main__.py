"""`python -m deltageom`: the same as the command `deltageom`."""

from deltageom.cli.main import main

main()
