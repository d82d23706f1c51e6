"""How events arrive: LISTEN, Supabase's channels, the feed."""
