"""The groups of the command line, one module each; they talk to the state Redis, so that no pod need be up."""
