"""The console command: one file per subcommand, argparse only. What a subcommand imports, it imports when it runs."""
