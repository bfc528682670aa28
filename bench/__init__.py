"""How fast the whole bridge is, beside the vendors' own Python clients on the same server: `make bench`."""
