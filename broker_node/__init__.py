"""The broker: knows who pays, holds the money, relays what it cannot read."""
