"""What every part stands on and no part is about: progress, memory, locks, files, imports, workers."""
