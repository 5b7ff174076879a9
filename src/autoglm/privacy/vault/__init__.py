"""The encrypted store on the device: decision 15, docs/guide/vault.md."""
