"""Command `download`: UniRef releases, verified."""
