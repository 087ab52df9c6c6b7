"""The payment gateways that a broker may use (`broker_node.payment_gateway`)."""
