"""Files, folders, object stores and hubs are found and read as rows."""
