"""The study: its parameters, what a stage runs, which methods it compares, and the rows that it keeps."""
