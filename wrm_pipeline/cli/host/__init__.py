"""`wrm doctor --production`: the host itself, as the playbook should have left it."""
