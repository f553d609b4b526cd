"""What everything else stands on: errors, types, specs, storage, prefetch."""
