"""Sightline: image collections in object storage, made into published, searchable indexes."""
