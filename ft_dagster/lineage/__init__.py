"""Records what made what: digests, keys, manifests, the package's own source."""
