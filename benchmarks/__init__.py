"""One script a question: each measures ours beside a peer in the same run, and records a figure."""
