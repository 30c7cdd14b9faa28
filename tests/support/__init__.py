"""What tests that need real processes, servers and databases share."""
