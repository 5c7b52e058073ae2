"""Plain loops that the speed benchmark compares metarl with: the same work, one task or one time step after another."""
