"""Finds files, folders, object stores and hubs and reads them as rows."""
