"""What every result is made of: settings, provenance, storage, tables, statistics."""
