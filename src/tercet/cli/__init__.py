"""The command line: parse, call, print. One file per group of verbs; `main` joins them."""
