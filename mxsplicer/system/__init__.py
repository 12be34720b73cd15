"""Services that all other folders use: progress, memory, locks, files, fingerprints, imports and workers."""
