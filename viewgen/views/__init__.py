"""View sources: whatever makes a view, one file each."""
