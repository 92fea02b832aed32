"""What a leaderboard says, before it is drawn."""
