"""What every provider is built from: the contract, the HTTP client and the credentials."""
