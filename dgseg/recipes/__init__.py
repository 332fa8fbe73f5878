"""One function per published system or preset, returning a complete Recipe."""
