"""A saved model and the Hub: what is known of it, and its card."""
