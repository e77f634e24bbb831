"""Command-line experiments: flags -> typed configuration -> library."""
