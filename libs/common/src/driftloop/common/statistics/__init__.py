"""Two-sample statistics from mergeable counts: exact, and the same however the counts were split before."""
