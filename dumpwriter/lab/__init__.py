"""The laboratory: every state that a crash can leave of a small machine's disk, and what recovery makes of it. Pure."""
