"""The local API socket: what programs of this computer ask of the server, `spalloc-admin` above all."""
