"""The crash path: what is sealed at arming, and what the standby does with it when the machine is dead."""
