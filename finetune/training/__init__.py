"""The loop and its parts: learning rate, loss, state, device, events."""
