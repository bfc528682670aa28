"""What `pushbridge demo` and the end-to-end tests run against in place of the vendors."""
