"""Clients: `fastcable.client.publish.Publisher` for Python applications, fastcable.js for browsers."""
