"""What the machine is and how the process uses it, read from /proc and /sys."""
