"""The console command: one file a subcommand, argparse only. What a subcommand imports, it imports when it runs."""
