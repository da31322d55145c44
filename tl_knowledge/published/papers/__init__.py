"""One file a paper: its experiments, with the numbers that it prints."""
