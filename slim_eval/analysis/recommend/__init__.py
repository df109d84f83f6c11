"""Which variant to deploy, and with what confidence."""
