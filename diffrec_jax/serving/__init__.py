"""What a trained or fitted model is good for: lists for known and for new users, in memory or in files."""
