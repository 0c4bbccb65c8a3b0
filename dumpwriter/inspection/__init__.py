"""Looking into a dump without another tool: what is in it, its bytes, and how it differs from another one. Pure."""
