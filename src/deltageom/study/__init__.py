"""What a study says: read, merged, checked, explained."""
