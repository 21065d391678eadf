"""Commands `import` and `export`, and the release directory."""
