"""The leaderboard: a static site of pages, made from records."""
