"""The leaderboard's pages (HTML)."""
