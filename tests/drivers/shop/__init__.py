"""An application of Django's whose column was encrypted in place."""
