"""Command `shard`: sequences to Parquet shards."""
