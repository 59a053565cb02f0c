"""Facts about an installation that a bug report needs: versions, machine, caches, a self-test."""
