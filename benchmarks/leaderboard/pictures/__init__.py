"""The leaderboard's static pictures (SVG), which show without JavaScript, too."""
