"""What every node shares: messages, cryptography, states, the store and the bus. Imports no node."""
