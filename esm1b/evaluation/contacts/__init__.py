"""Contacts from attention maps."""
