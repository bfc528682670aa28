"""What the admin API and the command line do with the store, without knowing of HTTP or a terminal."""
