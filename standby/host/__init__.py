"""What executes attempts on one machine: a process that has imported everything, and what asks it for an attempt."""
