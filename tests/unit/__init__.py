"""Pure code without sockets."""
