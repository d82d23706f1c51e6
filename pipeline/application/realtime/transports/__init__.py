"""Transports of hints and events: LISTEN, Supabase Realtime."""
