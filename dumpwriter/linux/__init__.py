"""What is known of a Linux kernel's memory, read from any dump of it. Pure, and never in trust of what it reads."""
