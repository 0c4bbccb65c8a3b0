"""The machine: disks are made, armed, run and crashed here; the one place that composes everything."""
