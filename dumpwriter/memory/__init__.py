"""Physical memory of the machine: where it lies and what is known of it."""
