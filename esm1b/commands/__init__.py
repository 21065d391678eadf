"""The commands by subject, each a thin function; heavy imports wait until one is called."""
