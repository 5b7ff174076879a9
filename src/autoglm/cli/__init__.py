"""The `autoglm` command: one file per subcommand, imported only when it is the one asked for."""
