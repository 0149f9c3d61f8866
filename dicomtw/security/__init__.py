"""PS3.15: who may do what (`access`), and how connections are protected (`tls`)."""
