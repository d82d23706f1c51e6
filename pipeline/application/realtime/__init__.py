"""The realtime client: subscriptions to published changes."""
