"""What commands share: `arguments` all of them, the others some, so that a change there is a change of these alone."""
