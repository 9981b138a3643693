"""`python -m deltageom` is the console command."""

from deltageom.cli.main import main

main()
