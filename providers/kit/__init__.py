"""What every provider is built from: the contract, the HTTP client, the credentials, a fake for tests."""
