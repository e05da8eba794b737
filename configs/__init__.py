"""The configuration tree; a package (`ccsi.configs`) only so that an installation finds it."""
