"""What a run needs: config, checks, Runner, command line."""
