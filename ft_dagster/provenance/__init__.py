"""Gives an artifact its identity: digests, manifests, stage versions, the package's own source."""
