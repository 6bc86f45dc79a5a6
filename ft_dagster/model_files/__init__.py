"""The files of a model are read: configuration, headers, tensors."""
