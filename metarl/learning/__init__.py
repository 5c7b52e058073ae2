"""The parts that agents share: networks, action distributions, returns, memories, meta-gradients, trust regions."""
