"""The asset of the dead-letter queue: rows and bodies that could not be published. Settling them is a flow."""
