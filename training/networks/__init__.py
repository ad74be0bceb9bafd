"""Binary layers, the networks made of them, and what makes a user's own network binary.
Of training/ it imports the registry, settings and `data.sets`; it knows nothing of gradient rules."""
