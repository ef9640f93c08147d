"""What each command does, in order. Calls the parts, owns no mathematics, prints nothing."""
