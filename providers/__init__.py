"""Push providers: one module a vendor, found by the `type` of its block in `config.yaml`."""
