"""Hostile messages, what the proxy makes of them, and what nginx and HAProxy do."""
